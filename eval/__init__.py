"""Evaluation of speech codecs under one protocol: `python -m eval --help`, and README.md beside this file."""
