"""`octavo doctor`: facts, and what to mend."""

from pathlib import Path

import pytest

from octavo.backends.cuda.gpu import DriverVersion, Gpu
from octavo.backends.cuda.installation import Versions
from octavo.cli import main

FOUND = Versions(DriverVersion("580.1", (13, 0)), "2.11", (13, 0), None, None, None)
GPU = Gpu(name="NVIDIA Test", uuid="GPU-0", capability=(9, 0), total_bytes=80 << 30, free_bytes=79 << 30)


def test_a_machine_without_a_gpu_is_well(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "octavo.backends.cuda.installation.versions", lambda: Versions(None, None, None, None, None, None)
    )
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == "octavo"
    assert any(line.startswith("  CPU") and "cores" in line for line in lines)
    assert any("computes (error" in line for line in lines)
    assert any(line.startswith("  GPU") and "no NVIDIA driver" in line for line in lines)
    assert lines[-1] == "all is well"


def test_what_is_missing_for_a_gpu_is_marked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "paged_decode-sm_90a-0123.cubin").write_bytes(bytes(1 << 20))
    monkeypatch.setattr("octavo.backends.cuda.variants.CUBINS", tmp_path)
    for module in ("octavo.backends.cuda.installation", "octavo.backends.cuda.gpu"):
        monkeypatch.setattr(f"{module}.find_gpus", lambda: [GPU])
    monkeypatch.setattr("octavo.backends.cuda.installation.versions", lambda: FOUND)
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "NVIDIA Test, compute capability 9.0, 79.0 of 80.0 GiB free" in out
    assert "580.1, CUDA 13.0" in out
    assert "2.11 for CUDA 13.0" in out
    assert f"1 compiled, 1.0 MiB, for sm_90a, in {tmp_path}" in out
    assert "! GPU          CuPy is not installed: pip install 'octavo[cuda13]'" in out
    assert out.endswith("to mend: 1, marked with !\n")


def test_it_takes_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--all"]) == 2
    assert "takes no arguments, and got --all" in capsys.readouterr().err
    assert main(["doctor", "--help"]) == 0
