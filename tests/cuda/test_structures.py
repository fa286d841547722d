"""The structures of arguments.py are those of the sources: names, order, offsets and sizes; and their enums."""

import ctypes
import subprocess
from enum import IntEnum

import pytest
from host import KERNELS

from octavo.backends.cuda import arguments

ENUMS: dict[str, tuple[type[IntEnum], ...]] = {
    "norm_act.cu": (arguments.Activation,),
    "update_rows.cu": (arguments.StepCount,),
    "moe_routing.cu": (arguments.Scoring,),
}
SOURCES: dict[str, tuple[type[ctypes.Structure], ...]] = {
    "attention.cuh": (arguments.WorkList, arguments.MergeList, arguments.AttentionCall),
    "kv_write.cu": (arguments.KvWriteCall,),
    "norm_act.cu": (arguments.NormCall, arguments.GatedCall),
    "update_rows.cu": (arguments.UpdateRowsCall,),
    "block_copy.cu": (arguments.BlockCopyCall,),
    "sampling.cu": (arguments.PenaltyState, arguments.SamplingCall),
    "count_tokens.cu": (arguments.CountTokensCall,),
    "gemm_w4a16.cu": (arguments.Int4GemmCall,),
    "moe_routing.cu": (arguments.ExpertTiles, arguments.RouteCall, arguments.SortCall, arguments.CombineCall),
    "moe_product.cu": (arguments.ExpertProductCall,),
}
MACROS = (
    "-DTOKEN_TILES=1",
    "-DOCTAVO_HOST",
    "-DHEAD_DIM=64",
    "-DQUERY_TYPE=Bfloat16",
    "-DCACHE_TYPE=Bfloat16",
    "-DELEMENT_TYPE=Bfloat16",
    "-DOUTPUT_TYPE=Bfloat16",
    "-DLOGIT_TYPE=Float32",
)


def assertions(structure: type[ctypes.Structure]) -> list[str]:
    """A line of C++ for each field, and one for the size."""
    name = structure.__name__
    lines = [f"static_assert(sizeof({name}) == {ctypes.sizeof(structure)});"]
    for field in structure._fields_:
        place = getattr(structure, field[0])
        lines.append(f"static_assert(offsetof({name}, {field[0]}) == {place.offset});")
        lines.append(f"static_assert(sizeof({name}::{field[0]}) == {place.size});")
    return lines


@pytest.mark.parametrize("source", SOURCES)
def test_python_and_the_compiler_lay_out_the_same_structures(source: str) -> None:
    lines = ["#include <cstddef>", f'#include "{source}"']
    for structure in SOURCES[source]:
        lines += assertions(structure)
    for numbers in ENUMS.get(source, ()):
        lines += [f"static_assert({each.name} == {each.value});" for each in numbers]
    command = ["g++", "-x", "c++", "-std=c++20", "-fsyntax-only", f"-I{KERNELS}", *MACROS, "-"]
    run = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_every_structure_is_compared() -> None:
    kinds = (ctypes.Structure, IntEnum)
    ours = {item for item in vars(arguments).values() if isinstance(item, type) and issubclass(item, kinds)} - {IntEnum}
    compared = [*SOURCES.values(), *ENUMS.values()]
    assert ours == {item for group in compared for item in group}
