"""NVIDIA's run-time compiler, from its wheel, through ctypes. It needs no driver and no GPU.

find_library    the library of the installed wheel
Nvrtc           the calls that we use
"""

import ctypes
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from octavo.errors import OctavoError

_WHEEL_FOLDERS = ("cu13/lib", "cuda_nvrtc/lib")
"""Below `nvidia`: of nvidia-cuda-nvrtc for CUDA 13, and of nvidia-cuda-nvrtc-cu12."""


class CompileError(OctavoError):
    """A kernel cannot be compiled; the message is the compiler's log, of many lines."""


def find_library() -> Path:
    """The library of the wheel that is installed. Raises CompileError if none is."""
    spec = importlib.util.find_spec("nvidia")
    for place in spec.submodule_search_locations or () if spec else ():
        for folder in _WHEEL_FOLDERS:
            for library in sorted(Path(place, folder).glob("libnvrtc.so.*")):
                return library
    raise CompileError("The CUDA compiler is missing: pip install 'octavo[cuda13]' or 'octavo[cuda12]'.")


class Nvrtc:
    """The compiler. Loading it takes about half a second."""

    def __init__(self, library: Path | None = None) -> None:
        library = library or find_library()
        # The library looks for this one by name when it compiles, and does not look beside itself.
        for builtins in sorted(library.parent.glob("libnvrtc-builtins.so.*")):
            ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
        self._library = ctypes.CDLL(str(library))
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._check(self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
        self.version = f"{major.value}.{minor.value}"
        """Such as "13.0"."""

    def compile(self, source: str, name: str, headers: Mapping[str, str], options: Sequence[str]) -> tuple[bytes, str]:
        """Compiles to a cubin; returns it and the log. `headers` are all that the source can include, by name."""
        program = ctypes.c_void_p()
        self._check(
            self._library.nvrtcCreateProgram(
                ctypes.byref(program),
                source.encode(),
                name.encode(),
                len(headers),
                _strings(list(headers.values())),
                _strings(list(headers)),
            )
        )
        try:
            result = self._library.nvrtcCompileProgram(program, len(options), _strings(options))
            log = self._read(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
            if result:
                raise CompileError(f"{name}: {self._error(result)}\n{log}")
            return self._read(program, "CUBIN"), log
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _read(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(self._library[f"nvrtcGet{what}Size"](program, ctypes.byref(size)))
        text = ctypes.create_string_buffer(size.value)
        self._check(self._library[f"nvrtcGet{what}"](program, text))
        return text.raw

    def _check(self, result: int) -> None:
        if result:
            raise CompileError(f"the CUDA compiler failed: {self._error(result)}")

    def _error(self, result: int) -> str:
        text: bytes = self._library.nvrtcGetErrorString(result)
        return text.decode()


def _strings(texts: Sequence[str]) -> "ctypes.Array[ctypes.c_char_p]":
    return (ctypes.c_char_p * len(texts))(*(text.encode() for text in texts))
