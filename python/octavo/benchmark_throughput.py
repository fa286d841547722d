"""`python -m octavo.benchmark_throughput`, as older scripts call it: `octavo bench throughput`."""

import sys

from octavo.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "throughput", *sys.argv[1:]]))
