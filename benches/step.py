"""How long a step takes without its model: plan, then commit, which sends the frame over a Unix socket.

- step_us: 256 running requests with prompts of 1,000 tokens, one token each, prefix caching on. Each of them grows
  past its 1,000 tokens; every 16th step of a request takes a new block and hashes a full one.
- prompt_4096_us: the plan in which one request of 4,096 tokens arrives while all its full blocks are cached: taken
  over, hashed, looked up and planned, table included.

The backend is the null one; its time does not count. Times are seen from Python, and include the call.
"""

import random
import socket
import time

from _report import arguments, percentiles, publish
from octavo._core import Endpoint, Engine, Frontend, Plan, Sampling
from octavo.backends.null import NullBackend

VOCAB_SIZE = 49_152
MAX_MODEL_LEN = 8_192
NUM_SEQUENCES = 256


class Bench:
    """An engine with the null backend, and the front end at the other end of a socket."""

    def __init__(self) -> None:
        front, back = socket.socketpair()
        self.frontend = Frontend(
            Endpoint.from_fd(front.detach()), None, max_model_len=MAX_MODEL_LEN, vocab_size=VOCAB_SIZE
        )
        self.engine = Engine(
            Endpoint.from_fd(back.detach()),
            num_blocks=NUM_SEQUENCES * MAX_MODEL_LEN // 16 // 4,
            block_size=16,
            max_num_seqs=NUM_SEQUENCES,
            max_num_batched_tokens=MAX_MODEL_LEN,
            max_model_len=MAX_MODEL_LEN,
            vocab_size=VOCAB_SIZE,
            eos_token_ids=[0],
        )
        self.backend = NullBackend(token=1)
        self.backend.bind(self.engine)
        self.random = random.Random(0)

    def prompt(self, length: int) -> list[int]:
        return [self.random.randrange(1, VOCAB_SIZE) for _ in range(length)]

    def submit(self, prompt: list[int], max_tokens: int) -> None:
        self.frontend.submit(prompt, Sampling(temperature=0.0, max_tokens=max_tokens, ignore_eos=True))

    def step(self, timeout: float = 0.0) -> tuple[Plan, float, float] | None:
        """(plan, microseconds to plan, microseconds to commit), or None when there was nothing to run."""
        started = time.perf_counter_ns()
        plan = self.engine.plan(timeout)
        planned = time.perf_counter_ns()
        if plan is None:
            return None
        self.backend.execute(plan)
        executed = time.perf_counter_ns()
        self.engine.commit(plan.epoch)
        committed = time.perf_counter_ns()
        return plan, (planned - started) / 1e3, (committed - executed) / 1e3

    def finish(self) -> None:
        """Runs until every request has ended, and its answer has come."""
        while self.frontend.num_open:
            self.step()
            self.frontend.drain()


def measure_steps(bench: Bench, num_steps: int) -> tuple[list[float], list[float]]:
    """Microseconds of plan and of commit, for each step in which all sequences took one token."""
    for _ in range(NUM_SEQUENCES):
        bench.submit(bench.prompt(1_000), max_tokens=num_steps + 100)
    plans, commits = [], []
    while len(plans) < num_steps:
        if (step := bench.step(timeout=1.0)) and step[0].num_tokens == step[0].num_reqs == NUM_SEQUENCES:
            plans.append(step[1])
            commits.append(step[2])
    bench.finish()
    return plans, commits


def measure_prompts(bench: Bench, num_prompts: int) -> list[float]:
    """Microseconds of the plans in which a cached prompt of 4,096 tokens arrives."""
    prompt = bench.prompt(4_096)
    bench.submit(prompt, max_tokens=1)
    bench.finish()
    plans = []
    for _ in range(num_prompts):
        bench.submit(prompt, max_tokens=1)
        while (step := bench.step()) is None:
            pass
        assert step[0].num_tokens == 16, "all but the last block should be cached"
        plans.append(step[1])
        bench.finish()
    return plans


def main() -> None:
    options = arguments(__doc__)
    options.add_argument("--steps", type=int, default=1_000)
    options.add_argument("--prompts", type=int, default=500)
    chosen = options.parse_args()
    bench = Bench()
    plans, commits = measure_steps(bench, chosen.steps)
    prompts = measure_prompts(bench, chosen.prompts)
    bench.engine.check_integrity()
    figures = {
        **percentiles("step_us", [plan + commit for plan, commit in zip(plans, commits, strict=True)]),
        **percentiles("plan_us", plans),
        **percentiles("commit_us", commits),
        **percentiles("prompt_4096_us", prompts),
        "num_sequences": NUM_SEQUENCES,
        "num_steps": len(plans),
    }
    publish("step", figures, chosen.json)


if __name__ == "__main__":
    main()
