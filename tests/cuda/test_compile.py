"""Compiling kernels for GPUs, without one. Skipped where NVIDIA's compiler is not installed."""

import shutil
from itertools import cycle
from pathlib import Path

import pytest
from conformance import EXPERIMENTS, SOURCE
from host import KERNELS

from octavo.backends.cuda.compile import compile_kernels
from octavo.backends.cuda.nvrtc import CompileError, Nvrtc, find_library
from octavo.backends.cuda.variants import ARCHITECTURES, SHARED_BYTES_LIMIT, Variant, all_variants, attention

MACROS = attention("paged_decode", 64, "Bfloat16", "Float8").macros


def sample() -> list[tuple[Variant, str]]:
    """The first variant of each source, for the architectures by turns; make cuda-kernels compiles all for all."""
    first: dict[str, Variant] = {}
    for variant in all_variants():
        first.setdefault(variant.source, variant)
    return list(zip(first.values(), cycle(ARCHITECTURES)))


@pytest.fixture(scope="module")
def nvrtc() -> Nvrtc:
    try:
        find_library()
    except CompileError as missing:
        pytest.skip(str(missing))
    return Nvrtc()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_kernel_compiles_without_spills_and_says_how_it_is_launched(
    nvrtc: Nvrtc, architecture: str, tmp_path: Path
) -> None:
    cubin = compile_kernels(KERNELS / "paged_decode.cu", architecture, MACROS, nvrtc=nvrtc, cache=tmp_path)
    (use,) = cubin.kernels
    assert cubin.path.read_bytes()[:4] == b"\x7fELF"
    assert (use.name, use.threads, use.spilled_bytes) == ("paged_decode", 128, 0)
    assert 0 < use.registers <= 255
    assert 0 < use.shared_bytes <= SHARED_BYTES_LIMIT
    assert "warning" not in cubin.log


def test_what_a_source_publishes_is_read_from_the_cubin(nvrtc: Nvrtc, tmp_path: Path) -> None:
    for row_tiles, rows in ((1, 64), (2, 128)):
        macros = attention("paged_prefill", 64, "Bfloat16", "Bfloat16", row_tiles).macros
        cubin = compile_kernels(KERNELS / "paged_prefill.cu", "sm_80", macros, nvrtc=nvrtc, cache=tmp_path)
        assert cubin.constants == {"prefill_tile_rows": rows}


def test_the_cache_knows_source_headers_macros_and_architecture(nvrtc: Nvrtc, tmp_path: Path) -> None:
    sources, cache = tmp_path / "sources", tmp_path / "cache"
    sources.mkdir()
    source, header = sources / "empty.cu", sources / "header.cuh"
    source.write_text('#include "header.cuh"\n#ifdef EXTRA\n#endif\n')
    header.write_text("// first\n")

    def cached(architecture: str = "sm_80", **macros: int) -> bool:
        return compile_kernels(source, architecture, macros, nvrtc=nvrtc, cache=cache).cached

    assert [cached(), cached()] == [False, True]
    assert [cached("sm_90a"), cached(EXTRA=1), cached(EXTRA=2)] == [False] * 3
    header.write_text("// second\n")
    assert [cached(), cached("sm_90a")] == [False] * 2
    source.write_text(source.read_text() + "// changed\n")
    assert [cached(), cached()] == [False, True]


def test_an_error_shows_the_log_and_ptx_is_refused(nvrtc: Nvrtc, tmp_path: Path) -> None:
    source = tmp_path / "wrong.cu"
    source.write_text("this is no kernel\n")
    with pytest.raises(CompileError, match=r"wrong\.cu\(1\)"):
        compile_kernels(source, "sm_80", {}, nvrtc=nvrtc, cache=tmp_path)
    assert not list(tmp_path.glob("*.cubin"))
    with pytest.raises(CompileError, match="compute_80 is no GPU's architecture"):
        compile_kernels(source, "compute_80", {}, nvrtc=nvrtc, cache=tmp_path)


@pytest.mark.parametrize(
    ("variant", "architecture"), sample(), ids=lambda value: value.source if isinstance(value, Variant) else value
)
def test_one_variant_of_each_source_compiles(nvrtc: Nvrtc, variant: Variant, architecture: str, tmp_path: Path) -> None:
    cubin = compile_kernels(KERNELS / variant.source, architecture, variant.macros, nvrtc=nvrtc, cache=tmp_path)
    for use in cubin.kernels:
        assert (use.spilled_bytes, use.stack_bytes) == (0, 0)
        assert use.shared_bytes <= SHARED_BYTES_LIMIT
    assert cubin.kernels
    assert "warning" not in cubin.log


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_experiments_for_a_gpu_compile(nvrtc: Nvrtc, architecture: str, tmp_path: Path) -> None:
    folder = tmp_path / "cuda"
    shutil.copytree(KERNELS, folder)
    source = Path(shutil.copy(SOURCE, folder))
    cubin = compile_kernels(source, architecture, {}, nvrtc=nvrtc, cache=tmp_path)
    assert {use.name for use in cubin.kernels} == {experiment.kernel for experiment in EXPERIMENTS}
    assert "warning" not in cubin.log


def test_every_source_has_variants() -> None:
    assert {variant.source for variant in all_variants()} == {path.name for path in KERNELS.glob("*.cu")}
