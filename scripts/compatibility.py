"""Compares octavo with vLLM 0.33, name by name, and writes the page of docs/ about it.

    python scripts/compatibility.py             writes docs/compatibility.md
    python scripts/compatibility.py --check     fails when that page is not what the code says

vLLM's names are the files of docs/vllm-0.33; octavo's are read from its own tables: the flags of cli/, the routes and
what each does with a field (server/routes.py), and the metrics that a server exposes.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields as dataclass_fields
from pathlib import Path

import msgspec

from octavo import sampling
from octavo.cli.arguments import FLAGS
from octavo.cli.known import IGNORED, LATER, Known
from octavo.sampling import SamplingParams
from octavo.server import errors, protocol
from octavo.server.admin import ADMIN_ROUTES
from octavo.server.metrics import Metrics
from octavo.server.route import Route
from octavo.server.routes import DOCUMENT_ROUTES, ROUTES

DOCS = Path(__file__).parents[1] / "docs"
NAMES = DOCS / "vllm-0.33"
PAGE = DOCS / "compatibility.md"
INTRODUCTION = """# octavo and vLLM 0.33, name by name

Made by `python scripts/compatibility.py` from octavo's own tables; do not edit it.

- **done**: it does what it does in vLLM.
- **no effect**: accepted; it cannot change an answer here.
- **400**, **refused**: said clearly, unless the value asks for what octavo does anyway. Nothing is ignored in silence.
- **absent**: there is no such thing here (a 404 for a route).

"""
TABLES = {route.path: route for route in ROUTES if route.method == "POST"}
REQUESTS = {
    "/v1/chat/completions": ("ChatCompletionRequest",),
    "/v1/completions": ("CompletionRequest",),
    "/v1/responses": ("ResponsesRequest",),
    "/v1/messages": ("AnthropicMessagesRequest",),
    "/v1/embeddings": ("EmbeddingCompletionRequest", "EmbeddingChatRequest"),
    "/score": ("ScoreTextRequest", "ScoreQueriesDocumentsRequest", "ScoreDataRequest"),
    "/rerank": ("RerankRequest",),
    "/tokenize": ("TokenizeCompletionRequest", "TokenizeChatRequest"),
    "/detokenize": ("DetokenizeRequest",),
}
"""Path → vLLM's types of its body."""
ANSWERS: Mapping[str, type[msgspec.Struct] | str] = {
    "ChatCompletionResponse": "/v1/chat/completions",
    "ChatCompletionResponseChoice": protocol.ChatChoice,
    "ChatMessage": protocol.ChatMessage,
    "CompletionResponse": "/v1/completions",
    "CompletionResponseChoice": protocol.CompletionChoice,
    "CompletionLogProbs": protocol.CompletionLogprobs,
    "UsageInfo": protocol.Usage,
    "PromptTokenUsageInfo": protocol.PromptTokensDetails,
    "PerRequestMetrics": protocol.RequestMetrics,
    "ErrorInfo": errors.ErrorInfo,
    "ModelCard": protocol.ModelCard,
    "ModelPermission": protocol.ModelPermission,
    "ResponsesResponse": "/v1/responses",
    "AnthropicMessagesResponse": "/v1/messages",
    "EmbeddingResponse": "/v1/embeddings",
    "TokenizeResponse": "/tokenize",
    "DetokenizeResponse": "/detokenize",
}
"""vLLM's type → octavo's, or the path that answers with it."""

Row = tuple[str, ...]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the page is not current")
    arguments = parser.parse_args()
    text = page()
    if not arguments.check:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    print("docs/compatibility.md is not current: run python scripts/compatibility.py", file=sys.stderr)
    return 1


def page() -> str:
    sections = {
        "Flags": (("flag", "state", "remark"), list(flags())),
        "Routes": (("route", "state"), list(routes())),
        "Fields of requests": (("field", *REQUESTS), list(request_fields())),
        "Fields of answers": (("type", "sent", "not sent"), list(answer_fields())),
        "Metrics": (("metric", "state"), list(metrics())),
        "SamplingParams of the Python API": (("field", "state"), list(sampling_params())),
    }
    summary = [(title, *counted(rows)) for title, (_, rows) in sections.items() if title != "Fields of answers"]
    parts = [INTRODUCTION, table(("", "done", "no effect", "refused", "absent"), summary)]
    parts += [f"\n## {title}\n\n{table(header, rows)}" for title, (header, rows) in sections.items()]
    return "".join(parts)


def table(header: Row, rows: Iterable[Row]) -> str:
    lines = (header, ("---",) * len(header), *rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def counted(rows: Iterable[Row]) -> Row:
    """How many cells have each state."""
    count = Counter(cell for row in rows for cell in row[1:])
    return tuple(
        str(number) for number in (count["done"], count["no effect"], count["refused"] + count["400"], count["absent"])
    )


def lines_of(name: str) -> list[str]:
    return (NAMES / f"{name}.txt").read_text(encoding="utf-8").splitlines()


def lists_of(name: str) -> dict[str, list[str]]:
    pairs = (line.split(": ", 1) for line in lines_of(name))
    return {title: names.split() for title, names in pairs}


def with_older(title: str, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(name, how it is shown) for today's names and those of older versions."""
    today = list(names)
    yield from ((name, f"`{name}`") for name in today)
    yield from ((name, f"`{name}` (older)") for name in lists_of("older").get(title, ()) if name not in today)


def flags() -> Iterator[Row]:
    done = {flag.name for flag in FLAGS}
    known: dict[str, tuple[str, Known]] = {flag.name: ("no effect", flag) for flag in IGNORED}
    known |= {flag.name: ("refused", flag) for flag in LATER}
    for name, shown in with_older("flags", lines_of("flags")):
        state, remark = ("done" if name in done else "absent"), ""
        if name in known:
            state, remark = known[name][0], known[name][1].why
        yield shown.replace("`", "`--", 1), state, remark


def routes() -> Iterator[Row]:
    ours = {f"{route.method} {route.path}" for route in (*ROUTES, *ADMIN_ROUTES, *DOCUMENT_ROUTES)}
    for name in lines_of("routes"):
        yield f"`{name}`", "done" if name in ours else "absent"


def request_fields() -> Iterator[Row]:
    theirs = lists_of("fields")
    older = lists_of("older")
    wanted = {
        path: {name for each in types for name in (*theirs[each], *older.get(each, ()))}
        for path, types in REQUESTS.items()
    }
    for name in sorted(set().union(*wanted.values())):
        cells = (state_of_field(TABLES.get(path), name) if name in wanted[path] else "" for path in REQUESTS)
        yield f"`{name}`", *cells


def state_of_field(route: Route | None, name: str) -> str:
    if route is None or route.request is None:
        return "absent"
    if name == "extra_body" or name in wire_names(route.request):
        return "done"
    return "no effect" if route.fields is not None and name in route.fields.inert else "400"


def wire_names(struct: type[msgspec.Struct]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(struct)}


def answer_fields() -> Iterator[Row]:
    theirs = lists_of("fields")
    for title, ours in ANSWERS.items():
        struct = answer_of(ours) if isinstance(ours, str) else ours
        names = set() if struct is None else wire_names(struct)
        sent = [name for name in theirs[title] if name in names]
        yield f"`{title}`", ", ".join(sent), ", ".join(name for name in theirs[title] if name not in names)


def answer_of(path: str) -> type[msgspec.Struct] | None:
    route = TABLES.get(path)
    answer = None if route is None else route.answer
    return answer if isinstance(answer, type) and issubclass(answer, msgspec.Struct) else None


def metrics() -> Iterator[Row]:
    collected = Metrics("", max_model_len=1, block_size=1, cache_config={}).collect()
    ours = {metric.name.removesuffix("_total") for metric in collected}
    for name, shown in with_older("metrics", lines_of("metrics")):
        yield shown, "done" if name.removesuffix("_total") in ours else "absent"


def sampling_params() -> Iterator[Row]:
    ours = {field.name: "done" for field in dataclass_fields(SamplingParams)}
    ours |= dict.fromkeys(getattr(sampling, "NOT_YET", ()), "refused")
    for name in lists_of("fields")["SamplingParams"]:
        yield f"`{name}`", ours.get(name, "absent")


if __name__ == "__main__":
    sys.exit(main())
