"""Does an exported model give the codes and the sound of the torch path, and how fast is it? One interleaved run.

python -m bench.onnx --clips data/test --num_clips 20 --seconds '[10, 60]'

Batch 1, one thread of torch and one of onnxruntime unless --threads says otherwise; speeds are ratios of medians.
"""

from __future__ import annotations

import platform
import random
import tempfile
from contextlib import nullcontext
from pathlib import Path

import onnxruntime
import torch
from jsonargparse import CLI

from bench.codec import Codec, measure, ours
from bench.tables import Table
from mimotok.export.onnx import export_onnx
from mimotok.export.run_onnx import OnnxTokenizer
from mimotok.io.audio import AUDIO_SUFFIXES, load_audio
from mimotok.tokenizer import Tokenizer


def exported_codec(tokenizer: OnnxTokenizer) -> Codec:
    """Wrap the graphs, with numpy's inverse STFT, in the benchmark's interface."""
    return Codec("ONNX", lambda wav: tokenizer.encode(wav.numpy())[0], lambda codes: tokenizer.decode(codes)[0])


def compare(torch_path: Tokenizer, graphs: OnnxTokenizer, paths: list[Path]) -> str:
    """Count the codes that differ, and measure by how much the sound of the same codes does."""
    codes = 0
    differing = 0
    seconds = 0.0
    error = 0.0
    for path in paths:
        wav = load_audio(path, torch_path.sample_rate)
        expected = torch_path.encode(wav, n_q=graphs.n_q)
        codes += expected.numel()
        differing += int((expected.numpy() != graphs.encode(wav.numpy())[0]).sum())
        sound = torch_path.decode(expected).numpy() - graphs.decode(expected.numpy())[0]
        seconds = seconds + wav.shape[1] / torch_path.sample_rate
        error = max(error, float(abs(sound).max()))
    return f"{len(paths)} clips, {seconds:.0f} s: {differing} of {codes} codes differ, waveforms by at most {error:.1e}"


@torch.no_grad()
def main(
    model: str | None = None,
    exported: str | None = None,
    clips: str = "examples",
    num_clips: int = 20,
    seconds: list[float] | None = None,
    repeats: int = 5,
    threads: int = 1,
) -> None:
    """Prints what differs, and the speed of ONNX as a multiple of torch's.

    Args:
        model: folder or hub id; the embedded checkpoint if left out.
        exported: what `mimotok export` wrote of that model; exported anew if left out.
        clips: folder of sound files.
        num_clips: of them, drawn by chance with a fixed seed.
        seconds: lengths of the timed clip, 10 if left out.
        repeats: timed turns, of which the median counts.
        threads: of torch and of onnxruntime.
    """
    torch.set_num_threads(threads)
    tokenizer = Tokenizer.from_pretrained(model)
    found = sorted(path for path in Path(clips).rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    paths = random.Random(0).sample(found, min(num_clips, len(found)))
    with nullcontext(exported) if exported else tempfile.TemporaryDirectory() as place:
        folder = Path(place) if exported else Path(place) / "exported"
        if not exported:
            export_onnx(tokenizer, folder)
        graphs = OnnxTokenizer(folder, threads=threads)
    print(compare(tokenizer, graphs, paths))
    machine = platform.processor() or platform.machine()
    title = f"{threads} thread(s), {machine}, torch {torch.__version__}, onnxruntime {onnxruntime.__version__}"
    table = Table(title, ("clip", "ONNX encodes, times torch's speed", "ONNX decodes, times torch's speed"))
    for length in seconds or [10.0]:
        (encode, decode), (onnx_encode, onnx_decode) = measure(
            [ours(model, torch.float32), exported_codec(graphs)], length, repeats
        ).values()
        table.add(f"{length:g} s", f"{encode / onnx_encode:.2f}", f"{decode / onnx_decode:.2f}")
    print(table)


if __name__ == "__main__":
    CLI(main, as_positional=False)
