"""Executors run a `DecoderSpec`: `native` whole in Rust, `torch` on the device's operations and torch's products.

torch's threads sleep while they wait, as everything of octavo does; OpenMP reads this when torch is loaded. On 2
cores a SmolLM2 step at batch 1 takes 29 ms so, and 25 ms with OpenMP's own spinning; with eight busy processes beside
it, 0.14 s against 1.2 s.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
