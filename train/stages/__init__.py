"""The stages of training."""
