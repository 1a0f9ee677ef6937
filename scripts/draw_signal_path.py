"""Draw the signal path with its rates as an SVG: `python -m scripts.draw_signal_path docs/pictures/signal_path.svg`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

from mimotok.config import TokenizerConfig

ROOT = Path(__file__).parent.parent
BOX_WIDTH = 132
BOX_HEIGHT = 74
GAP = 58
MARGIN = 24
TOP = 64  # of the encoder's row
BOTTOM = 214  # of the decoder's row
HEIGHT = 326

# fill and outline of what carries sound, of layers, and of codes
COLOURS = {"sound": ("#e8f1fb", "#0072b2"), "layer": ("#f6f6f6", "#666666"), "codes": ("#fdf0e1", "#d55e00")}


class Box(NamedTuple):
    """A stage of the path: two lines of text, and the rate of what it gives."""

    title: str
    detail: str
    rate: str
    kind: str = "layer"


def stages(config: TokenizerConfig) -> tuple[list[Box], list[Box]]:
    """Return the boxes of the encoder and of the decoder, each in the order of the signal."""
    mel_rate = config.sample_rate / config.hop_length
    stem_rate = mel_rate / config.stride_size
    frame_rate = mel_rate / config.frame_stride
    upsampled_rate = mel_rate / config.decoder_stride_size
    n_q = config.checked_n_q(None)
    sound = f"{config.sample_rate / 1000:g} kHz"
    encoder = [
        Box("Sound", "1 channel", sound, "sound"),
        Box("Log-mel", f"{config.n_mels} bands", _hertz(mel_rate)),
        Box("Stem", "2 convolutions", _hertz(stem_rate)),
        Box("Transformer", f"{config.encoder_layers} blocks, skip", _hertz(stem_rate)),
        Box("Downsampling", f"{config.d_model} channels", _hertz(frame_rate)),
        Box("Codebooks", f"residual, {n_q} of {config.num_quantizers}", "", "codes"),
    ]
    decoder = [
        Box("Vectors", "sum of the entries", _hertz(frame_rate), "codes"),
        Box("Upsampling", "transposed conv.", _hertz(upsampled_rate)),
        Box("Transformer", f"{config.decoder_layers} causal blocks", _hertz(upsampled_rate)),
        Box("Coarse mel", f"{config.n_mels} bands", _hertz(mel_rate)),
        Box("Vocoder", f"{config.vocoder_num_layers} blocks", _hertz(mel_rate)),
        Box("Inverse STFT", f"window {config.window_size}", sound, "sound"),
    ]
    return encoder, decoder


def draw(config: TokenizerConfig) -> str:
    """Return the SVG: the encoder from left to right, the codes at the right, the decoder back from right to left."""
    encoder, decoder = stages(config)
    width = 2 * MARGIN + len(encoder) * BOX_WIDTH + (len(encoder) - 1) * GAP
    places = [MARGIN + i * (BOX_WIDTH + GAP) for i in range(len(encoder))]
    n_q = config.checked_n_q(None)
    frame_rate = config.sample_rate / config.frame_size
    bitrate = config.bitrate(n_q)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" role="img" '
        'font-family="Helvetica, Arial, sans-serif" text-anchor="middle">',
        "<title>The signal path of mimotok, with the rate of what each stage gives</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#444"/></marker></defs>',
        f'<rect width="{width}" height="{HEIGHT}" rx="10" fill="#ffffff"/>',
        _text(MARGIN, 34, "Encoder", size=17, weight="bold", anchor="start"),
        _text(MARGIN, HEIGHT - 12, "Decoder", size=17, weight="bold", anchor="start"),
    ]
    for place, box in zip(places, encoder, strict=True):
        parts.append(_box(place, TOP, box))
    for place, box in zip(reversed(places), decoder, strict=True):
        parts.append(_box(place, BOTTOM, box))
    for place, box in zip(places, encoder[:-1], strict=False):
        parts.append(_arrow(place + BOX_WIDTH, TOP, GAP, box.rate))
    for place, box in zip(reversed(places), decoder[:-1], strict=False):
        parts.append(_arrow(place, BOTTOM, -GAP, box.rate))
    middle = places[-1] + BOX_WIDTH / 2
    parts.append(_line(middle, TOP + BOX_HEIGHT, middle, BOTTOM))
    label = f"codes: {frame_rate:g} frames/s × {n_q} codebooks = {bitrate:,.0f} bit/s"
    parts.append(_text(middle - 14, (TOP + BOX_HEIGHT + BOTTOM) / 2 + 5, label, size=16, weight="bold", anchor="end"))
    out = places[0] + BOX_WIDTH / 2
    parts.append(_text(out, BOTTOM - 10, decoder[-1].rate, size=13))
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Write the picture of the embedded checkpoint to the path that is given."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m scripts.draw_signal_path docs/pictures/signal_path.svg")
    picture = draw(TokenizerConfig.load(ROOT / "checkpoints/default/config.json"))
    Path(sys.argv[1]).write_text(picture, encoding="utf-8")


def _hertz(rate: float) -> str:
    return f"{rate:g} Hz"


def _box(x: float, y: float, box: Box) -> str:
    fill, outline = COLOURS[box.kind]
    middle = x + BOX_WIDTH / 2
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="8" '
        f'fill="{fill}" stroke="{outline}" stroke-width="1.5"/>'
        + _text(middle, y + 32, box.title, size=14, weight="bold")
        + _text(middle, y + 54, box.detail, size=12)
    )


def _arrow(x: float, top: float, length: float, rate: str) -> str:
    y = top + BOX_HEIGHT / 2
    return _line(x, y, x + length, y) + _text(x + length / 2, y - 9, rate, size=13)


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    ends = f'x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"'
    return f'<line {ends} stroke="#444" stroke-width="1.5" marker-end="url(#tip)"/>'


def _text(x: float, y: float, text: str, *, size: int, weight: str = "normal", anchor: str = "middle") -> str:
    place = f'x="{x:g}" y="{y:g}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}"'
    return f'<text {place} fill="#222">{escape(text)}</text>'


if __name__ == "__main__":
    main()
