"""What stands around the GPU's driver: what it is asked for exists, and what does not fit is one clear line."""

import ast
import inspect
from dataclasses import replace

import pytest
from fake_driver import FakeDriver

from octavo.backends.cuda import driver as driver_module
from octavo.backends.cuda import installation
from octavo.backends.cuda.driver import open_driver
from octavo.backends.cuda.gpu import DriverVersion, Gpu, find_gpus
from octavo.backends.cuda.installation import Versions, cuda_lacks
from octavo.backends.cuda.self_check import self_check
from octavo.backends.cuda.variants import ARCHITECTURES, KERNELS, all_variants, architecture_of
from octavo.config import DeviceConfig
from octavo.engine.graphs import graph_sizes
from octavo.errors import ModelError

WHOLE = Versions(
    driver=DriverVersion("580.1", (13, 0)),
    torch="2.11",
    torch_cuda=(13, 0),
    cupy="14.2",
    cupy_cuda=13,
    nvrtc="13.0",
)
GPU = Gpu(name="NVIDIA Test", uuid="GPU-0", capability=(9, 0), total_bytes=1, free_bytes=1)


def test_cupy_has_every_call_that_the_driver_makes() -> None:
    calls = pytest.importorskip("cupy_backends.cuda.api.driver")
    tree = ast.parse(inspect.getsource(driver_module))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and ast.unparse(node.value) in ("calls", "driver.calls", "self._driver.calls")
    }
    assert {"moduleLoadData", "launchKernel"} <= used
    assert {name for name in used if not hasattr(calls, name)} == set()


@pytest.mark.parametrize(
    ("found", "gpus", "message"),
    [
        (WHOLE, [GPU], None),
        (replace(WHOLE, driver=None), [GPU], "there is no NVIDIA driver on this machine"),
        (WHOLE, [], "the NVIDIA driver shows no GPU to this process (see CUDA_VISIBLE_DEVICES)"),
        (WHOLE, [replace(GPU, capability=(7, 5))], "has compute capability 7.5, and the kernels need 8.0"),
        (replace(WHOLE, torch=None, torch_cuda=None), [GPU], "PyTorch is not installed: pip install 'octavo[cuda13]'"),
        (replace(WHOLE, torch_cuda=None), [GPU], "PyTorch 2.11 was made without CUDA: install the build for CUDA 13"),
        (
            replace(WHOLE, driver=DriverVersion("550.5", (12, 4))),
            [GPU],
            "PyTorch 2.11 is for CUDA 13.0, and driver 550.5 runs CUDA 12.4 at most: update the driver",
        ),
        (replace(WHOLE, cupy=None, cupy_cuda=None), [GPU], "CuPy is not installed: pip install 'octavo[cuda13]'"),
        (replace(WHOLE, cupy_cuda=12), [GPU], "CuPy 14.2 is for CUDA 12, and PyTorch 2.11 for CUDA 13: pip install"),
    ],
)
def test_what_does_not_fit_is_one_line_that_mends_it(
    found: Versions, gpus: list[Gpu], message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "versions", lambda: found)
    monkeypatch.setattr(installation, "find_gpus", lambda: gpus)
    lacks = cuda_lacks()
    if message is None:
        assert lacks is None
        return
    assert lacks is not None
    assert message in lacks
    assert "\n" not in lacks


def test_nothing_is_opened_where_something_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "cuda_lacks", lambda: "the plug is out")
    with pytest.raises(ModelError, match="--device cuda: the plug is out"):
        open_driver()


def test_the_self_check_of_the_doctor() -> None:
    assert 0 < self_check(FakeDriver()) < 0.005


def test_no_visible_gpu_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert find_gpus() == []


def test_torchs_version_is_read_without_importing_it() -> None:
    import torch

    assert torch.version.cuda is None or installation.versions().torch_cuda == tuple(
        int(part) for part in torch.version.cuda.split(".")
    )


def test_the_package_has_the_sources_of_its_kernels() -> None:
    assert {variant.source for variant in all_variants()} <= {path.name for path in KERNELS.iterdir()}
    assert (KERNELS / "ptx.cuh").exists()


def test_every_supported_gpu_has_kernels() -> None:
    capabilities = ((8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0))
    assert {architecture_of(*capability) for capability in capabilities} == set(ARCHITECTURES)
    with pytest.raises(ValueError, match=r"7\.5 is older than 8\.0"):
        architecture_of(7, 5)


@pytest.mark.parametrize(
    ("config", "max_num_seqs", "sizes"),
    [
        (DeviceConfig(), 20, [1, 2, 4, 8, 16, 20]),
        (DeviceConfig(), 1, [1]),
        (DeviceConfig(enforce_eager=True), 20, []),
        (DeviceConfig(cudagraph_capture_sizes=(3, 99)), 20, [3]),
        (DeviceConfig(max_cudagraph_capture_size=9), 20, [1, 2, 4, 8, 9]),
    ],
)
def test_the_sizes_of_graphs(config: DeviceConfig, max_num_seqs: int, sizes: list[int]) -> None:
    assert graph_sizes(config, max_num_seqs) == sizes


def test_wide_steps_have_graphs_of_up_to_512_rows() -> None:
    sizes = graph_sizes(DeviceConfig(), 4096)
    assert (sizes[0], sizes[-1], len(sizes)) == (1, 512, 51)
    assert sizes == sorted(set(sizes))
