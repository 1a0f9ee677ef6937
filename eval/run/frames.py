"""The frames of many recordings, encoded by worker processes."""

from __future__ import annotations

from collections.abc import Sequence

from eval.codecs.base import CodecSpec, Frames
from eval.run.feedback import Notify, Progress
from eval.run.steps import Framing, encode_frames
from eval.run.tasks import Failed, run_tasks
from mimotok.io.clips.clip import Clip


def encode_clips(
    spec: CodecSpec, clips: Sequence[Clip], *, workers: int, device: str, notify: Notify, progress: Progress
) -> dict[str, Frames]:
    """Encode recordings into frames.

    Args:
        spec: the codec, which must have frames.
        clips: the recordings.
        workers: processes.
        device: where models run.
        notify: receives one line for each recording that cannot be encoded.
        progress: shows progress.

    Returns:
        Frames by the clip's id, without those that cannot be encoded.
    """
    ids = {Framing(spec, device, clip): clip.id for clip in clips}
    frames = {}
    with progress(f"{spec.label}: frames", len(ids)) as advance:
        for item, result in run_tasks(encode_frames, list(ids), workers):
            if isinstance(result, Failed):
                notify(f"{spec.label}: {ids[item]}: {result.reason}")
            else:
                frames[ids[item]] = result
            advance()
    return frames
