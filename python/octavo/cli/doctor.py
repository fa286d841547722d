"""`octavo doctor`: what this machine has, what octavo can use of it, and whether that works.

Each line is a fact; a line that begins with `!` is what to mend. Exit code 1 when there is such a line.
"""

import sys
from pathlib import Path

from octavo.cli.arguments import UsageError

HELP = """usage: octavo doctor

Says what this machine has and what octavo can use of it: CPU, memory, GPUs, driver, PyTorch, CuPy, cached kernels;
and computes a little on each device that can be used."""


def run(command: str, words: list[str]) -> int:
    if words in (["--help"], ["-h"]):
        print(HELP)
        return 0
    if words:
        raise UsageError(f"octavo doctor takes no arguments, and got {words[0]}")
    report = Report()
    _installation(report)
    _cpu(report)
    _gpu(report)
    return report.finish()


class Report:
    """Prints as it goes: a check that hangs is then the one after the last line."""

    def __init__(self) -> None:
        self._num_faults = 0

    def fact(self, name: str, text: str) -> None:
        print(f"  {name:<12} {text}", flush=True)

    def fault(self, name: str, text: str) -> None:
        self._num_faults += 1
        print(f"! {name:<12} {text}", flush=True)

    def finish(self) -> int:
        print("all is well" if not self._num_faults else f"to mend: {self._num_faults}, marked with !")
        return 1 if self._num_faults else 0


def _installation(report: Report) -> None:
    from octavo import __version__

    version = ".".join(map(str, sys.version_info[:3]))
    report.fact("octavo", f"{__version__}, Python {version}")


def _cpu(report: Report) -> None:
    import numpy as np

    from octavo._core import CpuKernels
    from octavo.engine.machine import available_memory, usable_cores

    kernels = CpuKernels(usable_cores())
    report.fact(
        "CPU", f"{usable_cores()} cores, {kernels.isa}; {available_memory() / 2**30:.1f} GiB of memory available"
    )
    gate_up = np.linspace(-4, 4, 2 * 256, dtype=np.float32).reshape(1, -1)
    out = np.empty((1, 256), np.float32)
    kernels.silu_mul(gate_up, out)
    gate, up = gate_up[:, :256].astype(np.float64), gate_up[:, 256:]
    error = float(np.abs(out - gate / (1 + np.exp(-gate)) * up).max())
    if error < 1e-5:
        report.fact("", f"computes (error {error:.0e})")
    else:
        report.fault("CPU", f"its kernels are wrong by {error:.1e}: please report this")


def _gpu(report: Report) -> None:
    from octavo.backends.cuda.gpu import find_gpus
    from octavo.backends.cuda.installation import cuda_lacks, versions
    from octavo.backends.cuda.variants import CUBINS

    found = versions()
    if found.driver is None:
        report.fact("GPU", "none: there is no NVIDIA driver")
        return
    major, minor = found.driver.cuda
    report.fact("driver", f"{found.driver.driver}, CUDA {major}.{minor}")
    for gpu in find_gpus():
        free, total = gpu.free_bytes / 2**30, gpu.total_bytes / 2**30
        capability = ".".join(map(str, gpu.capability))
        report.fact("GPU", f"{gpu.name}, compute capability {capability}, {free:.1f} of {total:.1f} GiB free")
    made_for = "" if found.torch_cuda is None else f" for CUDA {found.torch_cuda[0]}.{found.torch_cuda[1]}"
    report.fact("PyTorch", f"{found.torch}{made_for}" if found.torch else "not installed")
    report.fact("CuPy", f"{found.cupy} for CUDA {found.cupy_cuda}" if found.cupy else "not installed")
    report.fact("NVRTC", found.nvrtc or "not installed as a package")
    report.fact("kernels", _cached(CUBINS))
    lacks = cuda_lacks()
    if lacks is not None:
        report.fault("GPU", lacks)
        return
    from octavo.backends.cuda.driver import open_driver
    from octavo.backends.cuda.self_check import self_check

    driver = open_driver()
    try:
        error = self_check(driver)
    except Exception as failure:  # whatever it is, the person who asked shall read it
        report.fault("GPU", f"a kernel does not run: {failure}")
        return
    if error < 1e-2:
        report.fact("", f"computes (error {error:.0e}, {driver.architecture})")
    else:
        report.fault("GPU", f"its kernels are wrong by {error:.1e}: please report this")


def _cached(folder: Path) -> str:
    cubins = sorted(folder.glob("*.cubin"))
    if not cubins:
        return f"none compiled yet, in {folder}"
    size = sum(cubin.stat().st_size for cubin in cubins) / 2**20
    kinds = sorted({cubin.name.rsplit("-", 2)[1] for cubin in cubins})
    return f"{len(cubins)} compiled, {size:.1f} MiB, for {', '.join(kinds)}, in {folder}"
