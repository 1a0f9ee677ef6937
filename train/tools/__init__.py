"""Tools around training: export, average, prune, align, transcribe."""
