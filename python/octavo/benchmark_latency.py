"""`python -m octavo.benchmark_latency`, as older scripts call it: `octavo bench latency`."""

import sys

from octavo.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "latency", *sys.argv[1:]]))
