"""schemathesis makes requests from /openapi.json, right and wrong ones: no answer is a 5xx."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from compat_servers import CHAT_MODEL, READY_SECONDS

from octavo.cli.child import running_server

MAX_EXAMPLES = 3
"""For each operation."""
FLAGS = ["--max-model-len", "256"]
"""So that an answer that goes on to the end of the context is there in time."""
LIMIT_SECONDS = 300


def test_no_request_of_the_description_is_a_server_error(tmp_path: Path) -> None:
    command = Path(sys.prefix) / "compat" / "new" / "bin" / "schemathesis"
    if not command.is_file():
        reason = f"{command} is missing: run `make test`, which installs it"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with running_server(CHAT_MODEL, *FLAGS, ready_within=READY_SECONDS) as server:
        with urllib.request.urlopen(f"{server.address}/openapi.json") as response:
            document = json.load(response)
        # Any other model is a 404, and nothing of its request is looked at.
        name_model(document["components"]["schemas"])
        file = tmp_path / "openapi.json"
        file.write_text(json.dumps(document))
        options = ["--checks", "not_a_server_error", "--phases", "examples,coverage,fuzzing", "--seed", "1"]
        limits = ["--max-examples", str(MAX_EXAMPLES), "--request-timeout", "60", "--no-color"]
        done = subprocess.run(
            [command, "run", str(file), "--url", server.address, *options, *limits],
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
            cwd=tmp_path,
        )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def name_model(schemas: dict[str, Any]) -> None:
    for schema in schemas.values():
        if "model" in schema.get("properties", {}):
            schema["properties"]["model"] = {"const": CHAT_MODEL}
