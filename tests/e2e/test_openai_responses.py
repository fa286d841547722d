"""The OpenAI SDK's Responses API, unmodified, against the running server."""

import openai
import pytest

QUESTION = "What is the capital of France? Answer in one word."


@pytest.fixture
def client(server: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0)


@pytest.fixture
def model(client: openai.OpenAI) -> str:
    return client.models.list().data[0].id


def test_responses_stream_what_the_whole_answer_says(client: openai.OpenAI, model: str) -> None:
    whole = client.responses.create(model=model, input=QUESTION, temperature=0, max_output_tokens=24)
    assert "Paris" in whole.output_text
    assert whole.status == "completed"
    with client.responses.stream(model=model, input=QUESTION, temperature=0, max_output_tokens=24) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == final.output_text == whole.output_text
    assert len(deltas) > 1
    assert final.usage is not None
    assert whole.usage is not None
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_an_answer_is_input_as_it_is(client: openai.OpenAI, model: str) -> None:
    first = client.responses.create(model=model, input=QUESTION, temperature=0, max_output_tokens=24)
    spoken = [{"role": "user", "content": QUESTION}, *(item.to_dict() for item in first.output)]
    second = client.responses.create(
        model=model, input=[*spoken, {"role": "user", "content": "And of Italy?"}], max_output_tokens=8
    )
    assert second.output_text


def test_errors_are_the_sdks_own(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=model, input=QUESTION, max_output_tokens=0)
    assert refused.value.param == "max_output_tokens"
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_none")
