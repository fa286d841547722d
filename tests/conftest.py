"""For all tests: hypothesis takes few examples, the same ones each time, unless told `--hypothesis-profile=long`.

torch's threads sleep while they wait, as under octavo itself: the import of octavo must come before torch's own.
"""

from hypothesis import settings

import octavo.engine.executor  # noqa: F401

settings.register_profile("short", max_examples=30, deadline=None, derandomize=True)
settings.register_profile("long", max_examples=300, deadline=None)
settings.load_profile("short")
