"""`make demo`: the main job on the embedded checkpoint, and what came of it."""

from __future__ import annotations

import math
from pathlib import Path

from pystoi import stoi
from rich.console import Console
from rich.table import Table

import mimotok
from mimotok.transcode import decode_file, encode_file

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "examples" / "sample.flac"
OUT = ROOT / "demo"


def main() -> None:
    """Encodes and decodes the sample, and prints size, bitrate, STOI, and where the result lies."""
    OUT.mkdir(exist_ok=True)
    codes_path = OUT / "sample.npz"
    wav_path = OUT / "sample.wav"
    tokenizer = mimotok.Tokenizer.from_pretrained()
    codes = encode_file(tokenizer, SAMPLE, codes_path, overwrite=True)
    decode_file(tokenizer, codes_path, wav_path, overwrite=True)
    original = mimotok.load_audio(SAMPLE, tokenizer.sample_rate)[0].numpy()
    decoded = mimotok.load_audio(wav_path, tokenizer.sample_rate)[0].numpy()
    score = stoi(original, decoded, tokenizer.sample_rate)

    table = Table(title="mimotok: speech to codes and back", show_header=False)
    table.add_row("original", f"{SAMPLE.relative_to(ROOT)}, {codes.duration:.2f} s at {codes.sample_rate} Hz")
    frames = codes.codes.shape[1]
    size = math.ceil(codes.bitrate / codes.frame_rate * frames / 8)
    table.add_row("codes", f"{codes_path.relative_to(ROOT)}, {codes.n_q} codebooks x {frames} frames")
    table.add_row("bitrate", f"{codes.bitrate:.0f} bit/s, {size} bytes of codes")
    table.add_row("file size", f"{codes_path.stat().st_size} bytes: the codes and which model made them")
    table.add_row("STOI", f"{score:.3f} (1 is perfect)")
    table.add_row("listen to", str(wav_path.relative_to(ROOT)))
    Console().print(table)


if __name__ == "__main__":
    main()
