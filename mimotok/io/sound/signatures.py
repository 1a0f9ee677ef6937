"""What files of sound begin with."""

from __future__ import annotations

import re

SIGNATURE_BYTES = 24  # as many as `signature` looks at

# Long enough not to occur in sound by chance.
_SIGNATURES = (
    (re.compile(rb"(?:RIFF|RIFX)....WAVE", re.DOTALL), "wav"),
    (re.compile(rb"RF64....WAVE", re.DOTALL), "RF64"),
    (re.compile(rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb"), "W64"),
    (re.compile(rb"FORM....(?:AIF[FC]|8SVX|16SV)", re.DOTALL), "AIFF"),
    (re.compile(rb"fLaC[\x00\x80]\x00\x00\x22"), "FLAC"),
    (re.compile(rb"OggS\x00\x02"), "Ogg"),
    (re.compile(rb"caff\x00\x01\x00\x00"), "CAF"),
    (re.compile(rb"\.snd\x00\x00\x00|dns\..\x00\x00\x00", re.DOTALL), "AU"),
    (re.compile(rb"ID3[\x02-\x04]\x00"), "MP3"),
    (re.compile(rb"....ftyp", re.DOTALL), "MP4"),
    (re.compile(rb"\x1a\x45\xdf\xa3"), "WebM"),
    (re.compile(rb"NIST_1A\n"), "NIST"),
    (re.compile(rb"Creative Voice File"), "VOC"),
    (re.compile(rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11"), "WMA"),
)
_MPEG_FRAME = re.compile(rb"\xff[\xe2-\xff]")


def signature(start: bytes) -> str | None:
    """Return the name of the container that begins with these bytes, or None where they tell of none."""
    return next((name for pattern, name in _SIGNATURES if pattern.match(start)), None)


def likely_format(start: bytes) -> str | None:
    """Return as `signature`, or "MP3" for what may be MPEG frames: two bytes that sound can begin with too."""
    return signature(start) or ("MP3" if _MPEG_FRAME.match(start) else None)
