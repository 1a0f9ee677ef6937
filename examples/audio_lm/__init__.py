"""A small audio LM from scratch: text to speech and continuation in one sequence format."""
