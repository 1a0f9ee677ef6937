"""Codecs that can be measured: ours, those of transformers, and the system's command-line tools."""
