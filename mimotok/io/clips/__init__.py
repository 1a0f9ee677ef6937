"""Recordings as manifests and corpora list them: clips, their phones, and where their files may lie."""
