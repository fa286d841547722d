"""These tests need g++ on x86-64, and no GPU. `make test-cuda-host` runs the marked ones too."""

import platform
import shutil

import pytest

MARKER = "cuda_host_all"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARKER}: all cases of a CUDA kernel, which take minutes; only run by name")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    missing = platform.machine() != "x86_64" or not shutil.which("g++")
    everything = MARKER in config.option.markexpr
    for item in items:
        if item.path.parent.name != "cuda":
            continue
        if missing:
            item.add_marker(pytest.mark.skip(reason="needs g++ on x86-64"))
        elif item.get_closest_marker(MARKER) and not everything:
            item.add_marker(pytest.mark.skip(reason="all cases: make test-cuda-host"))
