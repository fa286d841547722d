"""The engine process: `start` prepares it, `memory` sizes it, `process` runs it, `build` makes the engine.

`loop` turns it, `runner` and `executor` run a model.
"""
