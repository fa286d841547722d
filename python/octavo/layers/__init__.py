"""Torch layers which models share: `linear` multiplies."""
