"""Reasoning in a model's output: styles (how each model marks it) and thinking (the parser)."""
