"""What runs a step: `base` says what the engine's loop asks of a device, the others do it."""
