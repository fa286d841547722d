"""What every bench says: a table for people, and a JSON file with its `figures` beside where and when they were made.

`step.py` measures the control plane alone; its siblings run as `python benches/NAME.py --json FILE` too.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

PACKAGES = ("octavo", "numpy", "torch")


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The parser that every bench starts from."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    return parser


def percentiles(name: str, values: list[float]) -> dict[str, float]:
    """`name`_p50, _p90 and _p99 of `values`."""
    return {f"{name}_p{rank}": round(float(np.percentile(values, rank)), 2) for rank in (50, 90, 99)}


def publish(bench: str, figures: Mapping[str, float], file: Path | None, **details: object) -> None:
    """Prints the table, and writes the JSON, with the `details` beside the figures, when a file was asked for."""
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:<{width}}  {value:>14,.2f}")
    if file:
        file.write_text(
            json.dumps({"bench": bench, "figures": dict(figures), **details, **_surroundings()}, indent=2) + "\n"
        )


def _surroundings() -> dict[str, object]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "cpus": len(os.sched_getaffinity(0)),
            "load": os.getloadavg()[0],
        },
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions,
        "command": sys.argv,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
