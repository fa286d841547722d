"""The CPU kernels, each at several shapes: `cargo bench -p octavo-kernels`, kept as JSON.

A figure is a median, in thousand millions a second: operations of products and of attention over prompts (two for each
multiplication), bytes of attention over a context, tokens/1e9 of whole steps. `limit/…` is what no kernel can exceed.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from _report import arguments, publish

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("filter", nargs="?", default="", help="a regular expression: only kernels whose names match")
    options = parser.parse_args()
    if shutil.which("cargo") is None:
        sys.exit("cargo is missing: these benches are compiled from source (https://rustup.rs)")
    folder = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "criterion"
    shutil.rmtree(folder, ignore_errors=True)
    command = ["cargo", "bench", "--locked", "-p", "octavo-kernels", "--benches", "--", "--noplot", options.filter]
    if subprocess.run(command, cwd=ROOT).returncode:
        sys.exit("cargo bench failed: its messages are above")
    figures = dict(sorted(figure(run) for run in folder.glob("**/new")))
    if not figures:
        sys.exit(f"no kernel's name matches {options.filter!r}")
    publish("kernels", figures, options.json)


def figure(run: Path) -> tuple[str, float]:
    """A kernel's name and its median throughput, from what criterion wrote of it."""
    bench = _read(run / "benchmark.json")
    nanoseconds = _read(run / "estimates.json")["median"]["point_estimate"]
    [amount] = bench["throughput"].values()
    return bench["full_id"], float(f"{amount / nanoseconds:.4g}")


def _read(file: Path) -> Any:
    return json.loads(file.read_text())


if __name__ == "__main__":
    main()
