"""The same as examples.asr_adapter on continuous latents, before any quantizer."""
