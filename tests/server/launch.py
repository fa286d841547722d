"""Runs one server for the tests: the options come as JSON in the first argument."""

import sys

import msgspec

from octavo.config import EngineConfig, ServerConfig
from octavo.errors import OctavoError
from octavo.server.launch import launch


class Options(msgspec.Struct):
    engine: EngineConfig
    server: ServerConfig


def main() -> int:
    options = msgspec.json.decode(sys.argv[1], type=Options)
    try:
        return launch(options.engine, options.server)
    except OctavoError as error:
        print(f"octavo: error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
