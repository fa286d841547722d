"""Executors run a `DecoderSpec`: `torch` on the device's operations and torch's products."""
