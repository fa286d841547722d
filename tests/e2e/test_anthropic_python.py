"""The Anthropic SDK for Python, unmodified, against the running server."""

import anthropic
import openai
import pytest

QUESTION: list[anthropic.types.MessageParam] = [
    {"role": "user", "content": "What is the capital of France? Answer in one word."}
]
GREEDY = {"temperature": 0}


@pytest.fixture
def client(server: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=server, api_key="none", max_retries=0)


@pytest.fixture
def model(server: str) -> str:
    return openai.OpenAI(base_url=f"{server}/v1", api_key="none").models.list().data[0].id


def test_messages_stream_what_the_whole_answer_says(client: anthropic.Anthropic, model: str) -> None:
    whole = client.messages.create(model=model, messages=QUESTION, max_tokens=24, extra_body=GREEDY)
    [block] = whole.content
    assert block.type == "text"
    assert "Paris" in block.text
    with client.messages.stream(model=model, messages=QUESTION, max_tokens=24, extra_body=GREEDY) as stream:
        assert "".join(stream.text_stream) == block.text
        final = stream.get_final_message()
    assert ([each.type for each in final.content], final.stop_reason) == (["text"], "end_turn")
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_tokens_are_counted_before_they_are_spent(client: anthropic.Anthropic, model: str) -> None:
    counted = client.messages.count_tokens(model=model, messages=QUESTION, system="You are terse.")
    answer = client.messages.create(model=model, messages=QUESTION, system="You are terse.", max_tokens=1)
    assert counted.input_tokens == answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0)


def test_errors_are_the_sdks_own(client: anthropic.Anthropic, model: str) -> None:
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="no-such-model", messages=QUESTION, max_tokens=1)
    with pytest.raises(anthropic.BadRequestError, match="stop_sequences"):
        client.messages.create(model=model, messages=QUESTION, max_tokens=1, stop_sequences=[""])
