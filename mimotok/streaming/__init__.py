"""Encoding and decoding as the sound arrives, with the codes and samples of the whole file."""

from __future__ import annotations

from mimotok.streaming.blocks import decode_blocks, encode_blocks
from mimotok.streaming.streams import StreamDecoder, StreamEncoder

__all__ = ["StreamDecoder", "StreamEncoder", "decode_blocks", "encode_blocks"]
