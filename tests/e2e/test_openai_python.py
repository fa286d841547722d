"""The OpenAI SDK for Python, unmodified, against the running server."""

import asyncio

import openai
import pytest

QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
PROMPT = "The days of the week are Monday, Tuesday,"


@pytest.fixture
def client(server: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0)


@pytest.fixture
def model(client: openai.OpenAI) -> str:
    return client.models.list().data[0].id


def test_models(client: openai.OpenAI, model: str) -> None:
    assert client.models.retrieve(model).id == model
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")


def test_chat_streams_what_the_whole_answer_says(client: openai.OpenAI, model: str) -> None:
    whole = client.chat.completions.create(model=model, messages=QUESTION, temperature=0, max_completion_tokens=24)
    stream = client.chat.completions.create(
        model=model,
        messages=QUESTION,
        temperature=0,
        max_completion_tokens=24,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert choices[0].delta.role == "assistant"
    assert "".join(choice.delta.content or "" for choice in choices) == whole.choices[0].message.content
    assert "Paris" in (whole.choices[0].message.content or "")
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == [whole.choices[0].finish_reason]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len(choices) > 5


def test_no_usage_unasked(client: openai.OpenAI, model: str) -> None:
    stream = client.chat.completions.create(model=model, messages=QUESTION, max_completion_tokens=4, stream=True)
    for chunk in stream:
        assert len(chunk.choices) == 1
        assert chunk.usage is None


def test_completions_stream_what_the_whole_answer_says(client: openai.OpenAI, model: str) -> None:
    whole = client.completions.create(model=model, prompt=PROMPT, temperature=0, max_tokens=12)
    stream = client.completions.create(model=model, prompt=PROMPT, temperature=0, max_tokens=12, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == whole.choices[0].text
    assert "Wednesday" in whole.choices[0].text


def test_several_prompts_and_choices(client: openai.OpenAI, model: str) -> None:
    answer = client.completions.create(
        model=model, prompt=[PROMPT, "Two plus two is"], n=2, max_tokens=4, temperature=0.8, seed=1
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]


def test_chat_logprobs(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model, messages=QUESTION, temperature=0, max_completion_tokens=4, logprobs=True, top_logprobs=3
    )
    assert answer.choices[0].logprobs is not None
    for token in answer.choices[0].logprobs.content or []:
        assert len(token.top_logprobs) == 3
        assert token.token == token.top_logprobs[0].token
        assert token.logprob == token.top_logprobs[0].logprob <= 0


def test_stop_string(client: openai.OpenAI, model: str) -> None:
    answer = client.completions.create(model=model, prompt=PROMPT, temperature=0, max_tokens=40, stop=["Friday"])
    assert "Thursday" in answer.choices[0].text
    assert "Friday" not in answer.choices[0].text
    assert answer.choices[0].finish_reason == "stop"


def test_errors_are_the_sdks_own(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="no-such-model", messages=QUESTION)
    assert unknown.value.param == "model"
    with pytest.raises(openai.BadRequestError) as negative:
        client.chat.completions.create(model=model, messages=QUESTION, temperature=-1)
    assert "temperature" in negative.value.message
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model=model, prompt="", max_tokens=1)


async def test_many_at_once_say_what_each_says_alone(server: str, model: str) -> None:
    questions = ["What is the capital of France?", "What colour is the sky?", "How many legs has a dog?", "Say hello."]
    async with openai.AsyncOpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0) as client:

        async def ask(question: str) -> str:
            stream = await client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": question}],
                temperature=0,
                max_completion_tokens=16,
                stream=True,
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        alone = [await ask(question) for question in questions]
        together = await asyncio.gather(*(ask(question) for question in questions * 4))
    assert together == alone * 4
