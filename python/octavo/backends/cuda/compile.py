"""A file of cuda/ to a cubin, cached.

Always to a cubin, never to PTX: the PTX of a newer compiler does not load on an older driver. The sources include no
CUDA header, so nothing but the compiler is needed, and a kernel takes a second.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from octavo.backends.cuda.elf import read_constants
from octavo.backends.cuda.nvrtc import CompileError, Nvrtc
from octavo.backends.cuda.variants import CUBINS

_OPTIONS = ("--std=c++17", "--device-as-default-execution-space", "--ptxas-options=-v")
_INCLUDE = re.compile(r'^#include "([^"]+)"', re.MULTILINE)
_ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class KernelUse:
    """What one kernel takes of a GPU."""

    name: str
    threads: int
    """Of a block."""
    shared_bytes: int
    """Dynamic, of a block: given at launch."""
    registers: int
    """Of a thread."""
    spilled_bytes: int
    """Stores and loads of a thread, where registers did not suffice."""
    stack_bytes: int
    """Of a thread: memory of arrays that are not in registers."""


@dataclass(frozen=True, slots=True)
class Cubin:
    path: Path
    kernels: tuple[KernelUse, ...]
    constants: Mapping[str, int]
    """What the source publishes by OCTAVO_CONSTANT."""
    log: str
    """The compiler's."""
    cached: bool
    """It was there already."""


def compile_kernels(
    source: Path,
    architecture: str,
    macros: Mapping[str, str | int],
    *,
    nvrtc: Nvrtc,
    cache: Path = CUBINS,
    include: Path | None = None,
) -> Cubin:
    """Compiles `source` for one architecture ("sm_90a"), unless the cache has it.

    `include` is the folder of what it includes; None: its own. Raises CompileError with the compiler's log.
    """
    if not architecture.startswith("sm_"):
        raise CompileError(f"{architecture} is no GPU's architecture, such as sm_90a")
    text = source.read_text()
    headers = _headers_of(text, include or source.parent)
    options = [f"--gpu-architecture={architecture}", *_OPTIONS, *(f"-D{key}={macros[key]}" for key in sorted(macros))]
    key = json.dumps([source.name, text, headers, options, nvrtc.version])
    name = f"{source.stem}-{architecture}-{hashlib.sha256(key.encode()).hexdigest()[:24]}"
    cubin_path, log_path = cache / f"{name}.cubin", cache / f"{name}.log"
    # The log is written last: where it is, the cubin is whole.
    cached = log_path.exists() and cubin_path.exists()
    if cached:
        image, log = cubin_path.read_bytes(), log_path.read_text()
    else:
        image, log = nvrtc.compile(text, source.name, headers, options)
        cache.mkdir(parents=True, exist_ok=True)
        _write_whole(cubin_path, image)
        _write_whole(log_path, log.encode())
    constants = {name: words[0] for name, words in read_constants(image, "octavo_constant_").items()}
    return Cubin(cubin_path, _kernel_uses(image, log), constants, log, cached)


def _headers_of(text: str, folder: Path) -> dict[str, str]:
    """The headers that a source includes, directly or not: a change in another one leaves its cubin in the cache."""
    headers: dict[str, str] = {}
    for name in _INCLUDE.findall(text):
        if (folder / name).exists() and name not in headers:  # what is only for the host is not shipped
            header = (folder / name).read_text()
            headers |= {name: header} | _headers_of(header, folder)
    return dict(sorted(headers.items()))


def _kernel_uses(image: bytes, log: str) -> tuple[KernelUse, ...]:
    shapes = read_constants(image, "octavo_shape_")
    uses = []
    for entry in _ENTRY.finditer(log):
        threads, shared_bytes = shapes[entry["name"]]
        spilled = int(entry["stores"]) + int(entry["loads"])
        registers, stack = int(entry["registers"]), int(entry["stack"])
        uses.append(KernelUse(entry["name"], threads, shared_bytes, registers, spilled, stack))
    if {use.name for use in uses} != set(shapes):
        raise CompileError(f"the compiler's log names other kernels than {sorted(shapes)}:\n{log}")
    return tuple(sorted(uses, key=lambda use: use.name))


def _write_whole(path: Path, content: bytes) -> None:
    """Other processes see the whole file or none."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_bytes(content)
    draft.replace(path)
