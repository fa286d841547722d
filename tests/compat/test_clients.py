"""Other people's clients, unmodified, against running servers. Each script in clients/ checks what it gets."""

from collections.abc import Callable

from compat_servers import CHAT_MODEL, EMBEDDING_MODEL

RunClient = Callable[..., str]


def test_the_first_openai_sdk(run_client: RunClient, chat_server: str, embedding_server: str) -> None:
    shown = run_client("old", "openai_sdk_1_0", chat_server, CHAT_MODEL, embedding_server, EMBEDDING_MODEL)
    assert shown.startswith("openai 1.0.0: ok")


def test_openai_sdk(run_client: RunClient, chat_server: str, embedding_server: str) -> None:
    assert "ok" in run_client("new", "openai_sdk", chat_server, CHAT_MODEL, embedding_server, EMBEDDING_MODEL)


def test_litellm(run_client: RunClient, chat_server: str, embedding_server: str) -> None:
    assert "ok" in run_client("new", "litellm_sdk", chat_server, CHAT_MODEL, embedding_server, EMBEDDING_MODEL)


def test_instructor(run_client: RunClient, chat_server: str) -> None:
    assert "ok" in run_client("new", "instructor_sdk", chat_server, CHAT_MODEL)


def test_langchain(run_client: RunClient, chat_server: str, embedding_server: str) -> None:
    assert "ok" in run_client("new", "langchain_sdk", chat_server, CHAT_MODEL, embedding_server, EMBEDDING_MODEL)


def test_llm(run_client: RunClient, chat_server: str) -> None:
    assert "ok" in run_client("new", "llm_cli", chat_server, CHAT_MODEL)


def test_openai_sdk_for_node(run_node: RunClient, chat_server: str, embedding_server: str) -> None:
    assert "ok" in run_node("compat.mjs", chat_server, CHAT_MODEL, embedding_server, EMBEDDING_MODEL)
