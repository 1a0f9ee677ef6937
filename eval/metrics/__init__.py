"""Metrics of reconstructions against originals."""
