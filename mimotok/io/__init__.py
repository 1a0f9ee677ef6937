"""Files in and out: sound, codes, manifests, and what a terminal shows."""
