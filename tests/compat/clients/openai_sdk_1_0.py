"""The oldest SDK of today's interface: CHAT_URL CHAT_MODEL EMBEDDING_URL EMBEDDING_MODEL."""

import math
import sys

import openai

chat_url, model, embedding_url, embedding_model = sys.argv[1:]
client = openai.OpenAI(base_url=f"{chat_url}/v1", api_key="none", max_retries=0)
messages = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]

assert model in [card.id for card in client.models.list().data]
assert client.models.retrieve(model).id == model

whole = client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=16)
stream = client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=16, stream=True)
text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
assert text == whole.choices[0].message.content and "Paris" in text, text

function = {
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
called = client.chat.completions.create(
    model=model, messages=messages, functions=[function], function_call={"name": "get_weather"}, max_tokens=64
)
assert called.choices[0].message.function_call.name == "get_weather", called

completion = client.completions.create(model=model, prompt="Monday, Tuesday,", temperature=0, max_tokens=8, logprobs=2)
assert len(completion.choices[0].logprobs.tokens) == 8
parts = client.completions.create(model=model, prompt="Monday, Tuesday,", temperature=0, max_tokens=8, stream=True)
assert "".join(part.choices[0].text for part in parts) == completion.choices[0].text

try:
    client.chat.completions.create(model=model, messages=messages, temperature=-1)
    raise AssertionError("a negative temperature was accepted")
except openai.BadRequestError as error:
    assert "temperature" in str(error)

embedder = openai.OpenAI(base_url=f"{embedding_url}/v1", api_key="none", max_retries=0)
vectors = embedder.embeddings.create(model=embedding_model, input=["a cat", "a dog"]).data
assert len(vectors) == 2 and math.isclose(math.hypot(*vectors[0].embedding), 1, abs_tol=1e-3)
print(f"openai {openai.__version__}: ok")
