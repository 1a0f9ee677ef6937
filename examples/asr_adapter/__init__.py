"""Recognition by an adapter: frozen tokenizer, a small network of convolutions, frozen Whisper."""
