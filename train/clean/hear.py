"""What is heard in one recording: its segments with their estimates, as JSON. It depends on nothing else."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import soundfile

from mimotok.io.audio import resample
from mimotok.io.clips.clip import Clip
from train.clean.measure import bandwidth, clipping_share, estimate_snr, fingerprint, levels_of
from train.clean.segments import Span, cut_at_pauses
from train.clean.settings import Hearing
from train.clean.speakers import Voices, hear_voices, number_speakers
from train.clean.voice import RATE, find_speech
from train.data.manifest import BadClipError, decode

_SPEAKERLESS = Voices(np.zeros((0, 1), np.float32), np.zeros(0))


def hear(clip: Clip, hearing: Hearing) -> dict[str, Any]:
    """Find and measure the segments of a recording, which is only read.

    Returns:
        `skipped`, the reason why it cannot be heard; or `seconds`, `rate`, `channels` and `frames` of its file,
        `whole`, whether one segment holds all its speech, and `segments`: `first` and `count` in samples, `snr` (dB),
        `clipping`, `bandwidth` (Hz), `consistency` and `speaker`, a number or None, and `print`, a fingerprint.
    """
    try:
        wav, rate = decode(clip)
    except BadClipError as error:
        return {"skipped": str(error)}
    narrow = resample(wav, rate, RATE)
    speech = find_speech(narrow, hearing)
    voices = hear_voices(narrow) if speech and hearing.speakers != "none" else _SPEAKERLESS
    segments = cut_at_pauses(
        speech,
        wav,
        rate,
        hearing,
        same_speaker=lambda first, second: voices.same(first, second, hearing.same_speaker),
    )
    levels = levels_of(wav, rate, speech)
    speakers = number_speakers([voices.mean(segment) for segment in segments], hearing.same_speaker)
    rows = []
    for segment, speaker in zip(segments, speakers, strict=True):
        first = round(segment.start * rate)
        count = min(round(segment.end * rate), len(wav)) - first
        part = wav[first : first + count]
        consistency = voices.consistency(segment)
        rows.append(
            {
                "first": first,
                "count": count,
                "snr": round(estimate_snr(levels, segment), 2),
                "clipping": round(clipping_share(part), 6),
                "bandwidth": round(bandwidth(part, rate), 1),
                "consistency": None if consistency is None else round(consistency, 4),
                "speaker": speaker,
                "print": base64.b64encode(fingerprint(part, rate).tobytes()).decode(),
            }
        )
    return {"seconds": len(wav) / rate, **_file_of(clip, rate), "whole": _is_whole(segments, speech), "segments": rows}


def _file_of(clip: Clip, rate: int) -> dict[str, int]:
    if clip.cut is not None:
        return {"rate": rate}
    info = soundfile.info(clip.audio)
    return {"rate": rate, "channels": info.channels, "frames": info.frames}


def _is_whole(segments: list[Span], speech: list[Span]) -> bool:
    """Return whether one segment holds all speech, so that the recording's text is that of the segment."""
    return (
        len(segments) == 1 and segments[0].start <= speech[0].start + 1e-6 and segments[0].end >= speech[-1].end - 1e-6
    )
