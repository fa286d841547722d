"""Plants the bugs of mutants.py in the kernels, one at a time, and says which of them the tests notice.

    python tests/cuda/mutate.py                 every mutant; takes some minutes
    python tests/cuda/mutate.py decode          those whose name has the word

A mutant is one change of one source's text. A few cases, those of its kernel, run on it in a process of its own. Most
of the time is the compiler's, so cases that need another build come late. What does not compile proves nothing.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import attention
import block_copy
import gemm_w4a16
import kv_write
import moe
import norm_act
import sampling
import update_rows
from attention import Case
from host import BUILDS, KERNELS, Schedule, schedules
from moe_mutants import MOE_MUTANTS, PRODUCT, ROUTING
from mutants import (
    ATTENTION,
    BLOCK_COPY,
    DECODE,
    DECODE_UNIT,
    GEMM_W4A16,
    KV_WRITE,
    MERGE,
    MLA,
    MUTANTS,
    NORM_ACT,
    PREFILL,
    UPDATE_ROWS,
    Mutant,
)
from sampling_mutants import COUNT, KEYS, PENALTIES, SAMPLING, SAMPLING_MUTANTS, SEARCH
from test_moe import SHORT as MOE
from test_sampling import ASKING, PENALISED, PLAIN, SHORT

from octavo.backends.cuda.arguments import Activation

SECONDS = 300
"""A mutant that hangs is noticed too."""

DECODE_CASES = (
    Case(((1, 40), (1, 70)), 64, (4, 2), page=32, layout="sparse"),
    Case(((1, 150), (1, 65)), 64, (20, 1), sinks=True, soft_cap=8.0, grid=1),
    Case(((1, 200), (1, 65), (1, 129)), 64, (4, 2), page=1, window=40),
    Case(((1, 200), (1, 64), (1, 1), (1, 129)), 64, (20, 1), chunk=64, sinks=True),
    Case(((1, 65), (1, 200), (1, 129)), 64, (4, 2), page=1, chunk=64, window=40, grid=1),
    Case(((1, 150), (1, 65)), 64, (8, 2), types=("bf16", "fp8")),
    Case(((3, 9), (1, 65)), 64, (4, 2), row_tiles=1),
)
MLA_CASES = (
    Case(((1, 75), (1, 1)), 576, (21, 1), value_dim=512, sinks=True, grid=1),
    Case(((1, 150), (1, 65)), 576, (16, 1), page=1, chunk=64, value_dim=512, sinks=True, window=100),
    Case(((1, 200), (1, 200), (1, 70)), 576, (3, 1), chunk=64, value_dim=512, window=40, grid=1),
)
PREFILL_CASES = (
    Case(((5, 5), (33, 97), (25, 130)), 64, (7, 1), sinks=True, soft_cap=8.0, row_tiles=1),
    Case(((20, 150),), 64, (4, 2), window=70, row_tiles=1),
    Case(((50, 150), (3, 3)), 64, (4, 2), page=1, window=40, row_tiles=1, grid=1),
    Case(((5, 5), (13, 130)), 64, (7, 1), chunk=64, sinks=True, row_tiles=1),
    Case(((20, 150),), 64, (4, 2), types=("bf16", "fp8"), row_tiles=1),
)


KV_WRITE_CASES = (
    kv_write.Case(num_tokens=6, padding=3, norm=True, skipped=(0, 3), gap=8, grid=1),
    kv_write.Case(num_tokens=4, rotary_dim=20, interleaved=True, page=4, layout="head_major"),
    kv_write.Case(num_tokens=40, layout="sparse"),
    kv_write.Case(num_tokens=3, head_dim=256, rotary_dim=32, types=("bf16", "fp8"), norm=True, spread=300.0),
)
NORM_ACT_CASES = (
    norm_act.Case("rms_norm", 3, 8200, in_place=True, gap=8, weight_offset=1.0),
    norm_act.Case("add_rms_norm", 3, 8200, gap=8, grid=1),
    norm_act.Case("add_rms_norm", 2, 96, initialise=True),
    norm_act.Case("gated_act", 3, 2200, gap=8),
    norm_act.Case("gated_act", 3, 64, activation=Activation.GELU_TANH),
    norm_act.Case("gated_act", 3, 64, activation=Activation.GELU_ERF),
    norm_act.Case("rms_norm", 3, 8200, ("bf16", "fp8"), zero_row=True, grid=1),
    norm_act.Case("rms_norm", 3, 64, ("bf16", "fp8")),
)
UPDATE_ROWS_CASES = (
    update_rows.Case(num_tokens=5, padding=3, grid=1),
    update_rows.Case(num_tokens=20, num_deltas=200, rows=(20, 33), grid=1),
)
BLOCK_COPY_CASES = (
    block_copy.Case(num_pairs=2, block_bytes=16400, gaps=(0, 16)),
    block_copy.Case(num_pairs=2, block_bytes=32768, within=True, grid=1),
    block_copy.Case(num_pairs=2, gaps=(block_copy.FAR, 0)),
)
SAMPLING_CASES = (
    sampling.Case(PLAIN + ASKING, vocab_size=330, grid=2),
    sampling.Case(PLAIN + ASKING, vocab_size=301, levels=1, holes=True, steps=2),
    sampling.Case(PENALISED, vocab_size=45, steps=10),
    SHORT["last-bits"],
    SHORT["half-of-equals"],
    SHORT["flat-tail"],
)
GEMM_W4A16_CASES = (
    gemm_w4a16.Case(rows=5, inputs=512, outputs=160, group=128, splits=3, bias=True, grid=1),
    gemm_w4a16.Case(rows=9, inputs=320, outputs=64, group=32),
    gemm_w4a16.Case(rows=9, inputs=576, outputs=32, group=192, splits=4, gap=8),
    gemm_w4a16.Case(rows=3, inputs=192, outputs=160, group=64, splits=3, cancelling=True),
    gemm_w4a16.Case(rows=30, token_tiles=4),
)
GEMM_RESULTS: dict[gemm_w4a16.Case, bytes] = {}
"""Of each case, the first result."""
MOE_CASES = tuple(
    MOE[name]
    for name in ("odd-shapes", "deepseek", "equal-scores", "elsewhere", "groups-by-their-best", "wide", "whole-pages")
)


@dataclass(frozen=True)
class Suite:
    """What runs on the mutants of a source: check(case, schedule, folder) on every case."""

    cases: tuple[Any, ...]
    check: Callable[[Any, Schedule, Path], object]


def check_attention(case: Case, schedule: Schedule, folder: Path) -> None:
    attention.check(case, schedule, folder)
    for kernels in attention.kernels_for(case, folder):
        assert not kernels.statistics.bank_conflicts, f"{kernels.statistics.bank_conflicts} bank conflicts"


def check_gemm(case: gemm_w4a16.Case, schedule: Schedule, folder: Path) -> None:
    result = gemm_w4a16.check(case, schedule, folder)
    assert GEMM_RESULTS.setdefault(case, result) == result, "other bits in another order"


SUITES = {
    DECODE: Suite(DECODE_CASES, check_attention),
    DECODE_UNIT: Suite(DECODE_CASES, check_attention),
    MLA: Suite(MLA_CASES, check_attention),
    PREFILL: Suite(PREFILL_CASES, check_attention),
    ATTENTION: Suite(DECODE_CASES + PREFILL_CASES, check_attention),
    MERGE: Suite(DECODE_CASES + PREFILL_CASES, check_attention),
    NORM_ACT: Suite(NORM_ACT_CASES, norm_act.check),
    UPDATE_ROWS: Suite(UPDATE_ROWS_CASES, update_rows.check),
    GEMM_W4A16: Suite(GEMM_W4A16_CASES, check_gemm),
    BLOCK_COPY: Suite(BLOCK_COPY_CASES, block_copy.check),
    KV_WRITE: Suite(KV_WRITE_CASES, kv_write.check),
    **dict.fromkeys((ROUTING, PRODUCT), Suite(MOE_CASES, moe.check)),
    **dict.fromkeys((KEYS, SAMPLING, SEARCH, PENALTIES, COUNT), Suite(SAMPLING_CASES, sampling.check)),
}


def run_cases(folder: Path, source: str) -> None:
    """Every case in four orders."""
    suite = SUITES[source]
    for case in suite.cases:
        for schedule in islice(schedules(), 4):
            suite.check(case, schedule, folder)


def outcome(mutant: Mutant) -> str | None:
    """What noticed it; None if nothing did."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "cuda"
        shutil.copytree(KERNELS, folder)
        source = folder / mutant.source
        text = source.read_text()
        if mutant.before and text.count(mutant.before) != 1:
            raise SystemExit(f"{mutant.name}: {mutant.before!r} is {text.count(mutant.before)} times in {source.name}")
        source.write_text(text.replace(mutant.before, mutant.after, 1) if mutant.before else text)
        earlier = set(BUILDS.glob("*"))
        command = [sys.executable, __file__, "--folder", str(folder), mutant.source]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return f"ran for more than {SECONDS} s"
        finally:
            for built in set(BUILDS.glob("*")) - earlier:
                built.unlink(missing_ok=True)
    if run.returncode == 0:
        return None
    if "CalledProcessError" in run.stderr:
        raise SystemExit(f"{mutant.name} does not compile:\n{run.stderr}")
    return what_was_raised(run.stderr) or f"exit {run.returncode}"


def what_was_raised(traceback: str) -> str:
    """The first line of the message."""
    raised = re.search(r"^[\w.]+(Error|Fault):\s*(.+)", traceback, re.MULTILINE)
    return raised[2][:90] if raised else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("word", nargs="?", default="", help="in the name of the mutants, or a source with --folder")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder:
        run_cases(arguments.folder, arguments.word)
        return 0
    mutants = [mutant for mutant in MUTANTS + SAMPLING_MUTANTS + MOE_MUTANTS if arguments.word in mutant.name]
    missed = []
    for mutant in mutants:
        noticed = outcome(mutant)
        is_control = not mutant.before
        if (noticed is None) != is_control:
            missed.append(mutant.name)
        print(f"{mutant.name:56} {noticed or 'passes'}", flush=True)
    planted = sum(bool(mutant.before) for mutant in mutants)
    print(f"{planted} bugs planted, {len(missed)} surprises", *missed, sep="\n  ")
    return bool(missed)


if __name__ == "__main__":
    os.chdir(Path(__file__).parent)
    sys.exit(main())
