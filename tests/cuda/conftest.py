"""These tests need g++ on x86-64, and no GPU. `make test-cuda-host` runs the marked ones too.

`pytest tests/cuda --gpu` runs on a GPU those that have a meaning there; `make check-gpu` does it.
"""

import platform
import shutil

import pytest

MARKER = "cuda_host_all"
ON_A_GPU = (
    *("test_paged_attention.py", "test_kv_write.py", "test_norm_act.py", "test_update_rows.py", "test_block_copy.py"),
    *("test_sampling.py", "test_wrappers.py", "test_backend.py"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--gpu", action="store_true", help="run the kernels on a GPU instead of this CPU")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARKER}: all cases of a CUDA kernel, which take minutes; only run by name")
    if not config.getoption("--gpu", default=False):
        return
    import device
    import host

    # Before any test is imported.
    host.HostKernels, host.guarded, host.sparse = device.DeviceKernels, device.pinned, device.sparse
    host.EMULATED = False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    gpu = config.getoption("--gpu", default=False)
    missing = not gpu and (platform.machine() != "x86_64" or not shutil.which("g++"))
    everything = MARKER in config.option.markexpr
    for item in items:
        if item.path.parent.name != "cuda":
            continue
        if missing:
            item.add_marker(pytest.mark.skip(reason="needs g++ on x86-64"))
        elif gpu and item.path.name not in ON_A_GPU:
            item.add_marker(pytest.mark.skip(reason="shows nothing on a GPU"))
        elif item.get_closest_marker(MARKER) and not everything:
            item.add_marker(pytest.mark.skip(reason="all cases: make test-cuda-host"))
