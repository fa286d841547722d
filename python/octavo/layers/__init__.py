"""Torch layers which models share: `linear` multiplies, `rope` makes the rotary table."""
