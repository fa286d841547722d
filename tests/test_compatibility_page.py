"""docs/compatibility.md is what scripts/compatibility.py makes of the code as it stands."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "compatibility.py"


def test_the_page_is_current() -> None:
    result = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_no_flag_of_vllm_is_unknown() -> None:
    page = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    flags = [line for line in page.splitlines() if line.startswith("| `--")]
    assert len(flags) > 300
    assert not [line for line in flags if "| absent |" in line]
    assert sum("| done |" in line for line in flags) > 50
