"""The command `llm` with a server in its list of models: CHAT_URL CHAT_MODEL."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

chat_url, model = sys.argv[1:]


def llm(*words: str) -> str:
    done = subprocess.run([Path(sys.executable).with_name("llm"), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


with tempfile.TemporaryDirectory() as folder:
    os.environ["LLM_USER_PATH"] = folder
    entry = {"model_id": "here", "model_name": model, "api_base": f"{chat_url}/v1", "supports_schema": True}
    Path(folder, "extra-openai-models.yaml").write_text(json.dumps([entry]))
    question = "What is the capital of France? Answer in one word."
    options = ("-m", "here", "--key", "none", "-o", "temperature", "0", "-o", "max_tokens", "60")
    assert "Paris" in llm(question, *options)
    assert llm(question, *options) == llm(question, *options, "--no-stream")
    schema = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
    assert json.loads(llm(question, *options, "--schema", json.dumps(schema)))["city"] in ("Paris", "Rome")
print("llm: ok")
