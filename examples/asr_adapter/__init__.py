"""Recognition by an adapter: frozen tokenizer, a small projection, a small causal LM."""
