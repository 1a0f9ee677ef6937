"""A small text reader trained on frozen tokens: what they mean."""
