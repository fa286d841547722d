"""The engine process: `process` starts it, `memory` sizes it, `loop` turns it, `runner` and `executor` run a model."""
