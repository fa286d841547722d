"""Runs one server for the tests: the options come as JSON in the first argument."""

import sys

import msgspec
import uvloop

from octavo.config import EngineConfig, ServerConfig
from octavo.errors import OctavoError
from octavo.server.app import serve


class Launch(msgspec.Struct):
    engine: EngineConfig
    server: ServerConfig


def main() -> int:
    launch = msgspec.json.decode(sys.argv[1], type=Launch)
    try:
        return uvloop.run(serve(launch.engine, launch.server))
    except OctavoError as error:
        print(f"octavo: error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
