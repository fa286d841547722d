"""`octavo bench throughput` and `octavo bench latency`: random prompts through `LLM`, and how long they take.

The flags, the printed lines and the JSON are vLLM's. Every request generates exactly the tokens that it is asked for.
"""

import json
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from tqdm import tqdm

from octavo.config import EngineConfig
from octavo.inputs import TokensPrompt
from octavo.llm import LLM
from octavo.sampling import SamplingParams

PERCENTILES = (10, 25, 50, 75, 90, 99)


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What is run. Lengths are tokens."""

    input_len: int
    output_len: int
    n: int = 1
    """Answers of each prompt."""
    num_prompts: int = 1
    """Of `throughput`: all are there at the start."""
    batch_size: int = 1
    """Of `latency`: prompts that are run together."""
    num_iters_warmup: int = 1
    num_iters: int = 1

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            least = 0 if name == "num_iters_warmup" else 1
            if getattr(self, name) < least:
                raise ValueError(f"{name}: must be at least {least}, not {getattr(self, name)}")


def random_prompts(llm: LLM, count: int, length: int, seed: int) -> list[TokensPrompt]:
    """Token ids from the middle of the vocabulary, where no control tokens are."""
    size = llm.get_tokenizer().vocab_size
    generator = random.Random(seed)  # noqa: S311  no secrets are made
    return [
        TokensPrompt(prompt_token_ids=[generator.randrange(size // 4, size // 2) for _ in range(length)])
        for _ in range(count)
    ]


def sampling(load: Load) -> SamplingParams:
    return SamplingParams(n=load.n, temperature=1.0, max_tokens=load.output_len, ignore_eos=True, detokenize=False)


def throughput(config: EngineConfig, load: Load, output_json: str | None) -> None:
    """Runs all prompts at once; prints requests and tokens a second."""
    with LLM.from_config(config) as llm:
        prompts = random_prompts(llm, load.num_prompts, load.input_len, config.model.seed)
        began = time.perf_counter()
        outputs = llm.generate(prompts, sampling(load))
        elapsed = time.perf_counter() - began
    num_prompt_tokens = load.num_prompts * load.input_len
    num_generated = sum(len(choice.token_ids) for output in outputs for choice in output.outputs)
    total = num_prompt_tokens + num_generated
    print(
        f"Throughput: {load.num_prompts / elapsed:.2f} requests/s, {total / elapsed:.2f} total tokens/s, "
        f"{num_generated / elapsed:.2f} output tokens/s"
    )
    print(f"Total num prompt tokens:  {num_prompt_tokens}\nTotal num output tokens:  {num_generated}")
    result = {
        "elapsed_time": elapsed,
        "num_requests": load.num_prompts,
        "total_num_tokens": total,
        "requests_per_second": load.num_prompts / elapsed,
        "tokens_per_second": total / elapsed,
    }
    write_json(result, output_json)


def latency(config: EngineConfig, load: Load, output_json: str | None) -> None:
    """Runs the same batch again and again; prints the mean time and percentiles."""
    with LLM.from_config(config) as llm:
        prompts = random_prompts(llm, load.batch_size, load.input_len, config.model.seed)

        def run_once() -> float:
            llm.reset_prefix_cache()
            began = time.perf_counter()
            llm.generate(prompts, sampling(load), use_tqdm=False)
            return time.perf_counter() - began

        for _ in tqdm(range(load.num_iters_warmup), desc="Warmup iterations"):
            run_once()
        latencies = [run_once() for _ in tqdm(range(load.num_iters), desc="Bench iterations")]
    mean = statistics.fmean(latencies)
    found = {percentile: at_percentile(latencies, percentile) for percentile in PERCENTILES}
    print(f"Avg latency: {mean} seconds")
    for percentile, value in found.items():
        print(f"{percentile}% percentile latency: {value} seconds")
    write_json({"avg_latency": mean, "latencies": latencies, "percentiles": found}, output_json)


def at_percentile(values: Sequence[float], percentile: int) -> float:
    """Between two values, their linear interpolation."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percentile / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def write_json(result: Mapping[str, object], path: str | None) -> None:
    if path is not None:
        Path(path).write_text(json.dumps(result, indent=4) + "\n", encoding="utf-8")
