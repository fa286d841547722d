"""Whether torch, CuPy and NVIDIA's driver fit together, found without importing the first two.

cuda_lacks()      what keeps this process from using a GPU, in one line; None when nothing does
versions()        what is installed, for `octavo doctor`
"""

import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from octavo.backends.cuda.gpu import DriverVersion, driver_version, find_gpus
from octavo.backends.cuda.variants import architecture_of

_TORCH_CUDA = re.compile(r"^cuda\b[^=]*=\s*['\"](\d+)\.(\d+)['\"]", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Versions:
    """None is not installed; a version of CUDA is (major, minor)."""

    driver: DriverVersion | None
    torch: str | None
    torch_cuda: tuple[int, int] | None
    """None too for a torch that was made without CUDA."""
    cupy: str | None
    cupy_cuda: int | None
    """The major version that the package is for."""
    nvrtc: str | None


def versions() -> Versions:
    cupy = {major: _version(f"cupy-cuda{major}x") for major in (12, 13)}
    cupy_cuda = next((major for major, version in cupy.items() if version), None)
    return Versions(
        driver=driver_version(),
        torch=_version("torch"),
        torch_cuda=_torch_cuda(),
        cupy=cupy[cupy_cuda] if cupy_cuda else None,
        cupy_cuda=cupy_cuda,
        nvrtc=_version("nvidia-cuda-nvrtc") or _version("nvidia-cuda-nvrtc-cu12"),
    )


def cuda_lacks() -> str | None:
    """The first thing that is missing or does not fit, with what mends it."""
    found = versions()
    if found.driver is None:
        return "there is no NVIDIA driver on this machine"
    gpus = find_gpus()
    if not gpus:
        return "the NVIDIA driver shows no GPU to this process (see CUDA_VISIBLE_DEVICES)"
    if gpus[0].capability < (8, 0):
        major, minor = gpus[0].capability
        return f"{gpus[0].name} has compute capability {major}.{minor}, and the kernels need 8.0 (Ampere) or newer"
    architecture_of(*gpus[0].capability)
    cuda = found.driver.cuda[0]
    extra = "cuda13" if cuda >= 13 else "cuda12"
    install = f"pip install 'octavo[{extra}]'"
    if found.torch is None:
        return f"PyTorch is not installed: {install}"
    if found.torch_cuda is None:
        return f"PyTorch {found.torch} was made without CUDA: install the build for CUDA {cuda}"
    if found.torch_cuda[0] > cuda:
        return (
            f"PyTorch {found.torch} is for CUDA {found.torch_cuda[0]}.{found.torch_cuda[1]}, and driver "
            f"{found.driver.driver} runs CUDA {cuda}.{found.driver.cuda[1]} at most: update the driver, or install a "
            f"PyTorch for CUDA {cuda}"
        )
    if found.cupy is None:
        return f"CuPy is not installed: {install}"
    if found.cupy_cuda != found.torch_cuda[0]:
        return (
            f"CuPy {found.cupy} is for CUDA {found.cupy_cuda}, and PyTorch {found.torch} for CUDA "
            f"{found.torch_cuda[0]}: pip install 'octavo[cuda{found.torch_cuda[0]}]'"
        )
    return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch_cuda() -> tuple[int, int] | None:
    """Read from torch's own file: importing it takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = (Path(spec.origin).parent / "version.py").read_text()
    match = _TORCH_CUDA.search(text)
    return (int(match[1]), int(match[2])) if match else None
