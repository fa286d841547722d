"""torch's threads sleep while they wait, as under octavo itself: this import must come before torch's own."""

import octavo.engine.executor  # noqa: F401
