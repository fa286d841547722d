"""All that only a GPU can show, in under nine minutes and without a network: `make check-gpu`.

    python3 scripts/check_gpu.py                      octavo is installed, with PyTorch, CuPy and pytest
    python3 scripts/check_gpu.py --wheels FOLDER      installs from there what is missing: octavo's wheel, and others
    python3 scripts/check_gpu.py --only tests

1. `octavo doctor`. 2. The kernels' tests on the device, each PTX wrapper against its emulation among them, and the
whole backend on tiny models. 3. compute-sanitizer's memcheck and racecheck on small cases, where the tool is there.
4. benches/gpu.py, whose figures go to benches/results/gpu_NAME.json. Goes on after a failure, and says so at the end.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SECONDS = 530
NEEDED = ("octavo", "torch", "cupy_backends", "pytest", "msgspec", "numpy", "transformers")
SMALL = "test_attention_is_right and (decode-64 or prefill-64-bf16)"
"""For compute-sanitizer, under which all is a hundred times slower."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="install what is missing from these wheels")
    parser.add_argument("--only", choices=["doctor", "tests", "sanitizer", "bench"])
    parser.add_argument("--json", type=Path, metavar="FILE", help="of the figures; default: in benches/results")
    options = parser.parse_args()
    environment = dict(os.environ)
    if options.wheels:
        environment["PYTHONPATH"] = install(options.wheels)
    missing = [name for name in NEEDED if not importable(name, environment)]
    if missing:
        print(f"check_gpu: missing here: {', '.join(missing)}; --wheels FOLDER installs them from files")
        return 2
    steps = Steps(environment)
    python = sys.executable
    # Without pyproject.toml's settings, which are for plugins that these tests do not need.
    pytest = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(ROOT)]
    pytest += ["tests/cuda", "--gpu"]
    if options.only in (None, "doctor"):
        steps.run("doctor", [python, "-m", "octavo", "doctor"], 60)
    if options.only in (None, "tests"):
        steps.run("tests", pytest, 200)
    if options.only in (None, "sanitizer"):
        for tool in ("memcheck", "racecheck"):
            if shutil.which("compute-sanitizer"):
                command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *pytest, "-k", SMALL]
                steps.run(tool, command, 60)
    if options.only in (None, "bench"):
        file = options.json or ROOT / "benches" / "results" / f"gpu_{gpu_name(environment)}.json"
        steps.run("bench", [python, "benches/gpu.py", "--json", str(file)], 300)
    return steps.summary()


class Steps:
    """Commands, one after another, all within the time that there is."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment, self._began = environment, time.monotonic()
        self._lines: list[str] = []
        self._failed = False

    def run(self, name: str, command: list[str], limit: float) -> None:
        began = time.monotonic()
        left = min(limit, SECONDS - (began - self._began))
        print(f"\n== {name}", flush=True)
        try:
            code = subprocess.run(command, cwd=ROOT, env=self._environment, timeout=max(left, 1)).returncode
            outcome = "ok" if code == 0 else f"FAILED ({code})"
        except subprocess.TimeoutExpired:
            outcome = f"FAILED: not done after {left:.0f} s"
        self._failed |= outcome != "ok"
        self._lines.append(f"  {name:<12} {time.monotonic() - began:6.0f} s  {outcome}")

    def summary(self) -> int:
        print("\n== summary", *self._lines, sep="\n")
        return int(self._failed)


def install(wheels: Path) -> str:
    """Into a folder of its own; returns the path that Python then searches."""
    target = tempfile.mkdtemp(prefix="octavo-wheels-")
    files = [str(wheel) for wheel in sorted(wheels.glob("*.whl"))]
    if not files:
        sys.exit(f"check_gpu: no wheels in {wheels}")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", target, *files]
    subprocess.run(command, check=True)
    return os.pathsep.join([target, *filter(None, [os.environ.get("PYTHONPATH")])])


def importable(name: str, environment: dict[str, str]) -> bool:
    command = [sys.executable, "-c", f"import importlib.util as u, sys; sys.exit(u.find_spec({name!r}) is None)"]
    return subprocess.run(command, env=environment, capture_output=True).returncode == 0


def gpu_name(environment: dict[str, str]) -> str:
    code = "from octavo.backends.cuda.gpu import find_gpus; print(find_gpus()[0].name)"
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    name = run.stdout.strip() or "unknown"
    return re.sub(r"[^a-z0-9]+", "_", name.lower().removeprefix("nvidia")).strip("_")


if __name__ == "__main__":
    sys.exit(main())
