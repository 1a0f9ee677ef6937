"""What several tests share: models, corpora, sounds, strategies and paths."""
