"""The engine process: `start` prepares it, `memory` sizes it, `spawn` starts it, `process` is it, `build` makes
the engine.

`loop` turns it, `runner` and `executor` run a model.
"""
