"""Preparation of found audio: speech is found, cut at pauses, measured, and what is not fit to train on is left out."""
