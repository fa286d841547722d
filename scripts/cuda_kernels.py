"""Compiles every CUDA kernel for every GPU, without one, and says what each takes of it.

    python scripts/cuda_kernels.py                      the table, on the terminal
    python scripts/cuda_kernels.py --write FILE         and as a page of docs/
    python scripts/cuda_kernels.py --only paged_decode --architectures sm_90a

Fails if a kernel spills registers, wants more shared memory than the smaller GPUs have, or has a compiler's warning.
It needs nvidia-cuda-nvrtc and nothing else. What was compiled once is cached.
"""

import argparse
import sys
from pathlib import Path

from octavo.backends.cuda.compile import compile_kernels
from octavo.backends.cuda.nvrtc import CompileError, Nvrtc
from octavo.backends.cuda.variants import ARCHITECTURES, SHARED_BYTES_LIMIT, Variant, all_variants

KERNELS = Path(__file__).parents[1] / "cuda"
PAGE = """# What the CUDA kernels take of a GPU

Registers of a thread by GPU, as NVRTC {version} says; no kernel spills. The variant is the head dimension and the types
of query and cache, or the types of input and output. Made by
`python scripts/cuda_kernels.py --write docs/cuda-kernels.md`.

"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", default=",".join(ARCHITECTURES), metavar="SM,SM")
    parser.add_argument("--only", default="", metavar="NAME", help="sources whose name starts so")
    parser.add_argument("--write", type=Path, metavar="FILE", help="a page for docs/")
    arguments = parser.parse_args()
    architectures = arguments.architectures.split(",")
    nvrtc = Nvrtc()
    faults: list[str] = []
    header = ["kernel", "variant", "threads", "shared memory", *architectures]
    rows: list[list[str]] = []
    for variant in all_variants():
        if variant.source.startswith(arguments.only):
            rows += compile_variant(variant, architectures, nvrtc, faults)
            print(" ".join(rows[-1]), flush=True)
    lines = [header, ["---"] * 2 + ["---:"] * (len(header) - 2), *rows]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    if arguments.write and not faults:
        arguments.write.write_text(PAGE.format(version=nvrtc.version) + table)
    print(f"\n{len(rows)} kernels for {len(architectures)} GPUs, {len(faults)} faults", *faults, sep="\n")
    return bool(faults)


def compile_variant(variant: Variant, architectures: list[str], nvrtc: Nvrtc, faults: list[str]) -> list[list[str]]:
    """A row of the table for each kernel of the source."""
    rows: dict[str, list[str]] = {}
    for architecture in architectures:
        where = f"{variant.source} {variant.name} {architecture}"
        try:
            cubin = compile_kernels(KERNELS / variant.source, architecture, variant.macros, nvrtc=nvrtc)
        except CompileError as error:
            faults.append(f"{where}: {error}")
            continue
        if "warning" in cubin.log:
            faults.append(f"{where}: {cubin.log}")
        for use in cubin.kernels:
            row = rows.setdefault(use.name, [use.name, variant.name, str(use.threads), str(use.shared_bytes)])
            row.append(f"{use.registers}")
            if use.spilled_bytes or use.stack_bytes:
                faults.append(f"{where}: spills {use.spilled_bytes} bytes, has {use.stack_bytes} on the stack")
            if use.shared_bytes > SHARED_BYTES_LIMIT:
                faults.append(f"{where}: {use.shared_bytes} bytes of shared memory, of {SHARED_BYTES_LIMIT}")
    return list(rows.values())


if __name__ == "__main__":
    sys.exit(main())
