"""The newest SDK: CHAT_URL CHAT_MODEL EMBEDDING_URL EMBEDDING_MODEL."""

import json
import math
import sys

import openai
from pydantic import BaseModel

chat_url, model, embedding_url, embedding_model = sys.argv[1:]
client = openai.OpenAI(base_url=f"{chat_url}/v1", api_key="none", max_retries=0)
messages = [{"role": "user", "content": "What is the weather in Paris?"}]
tools = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}},
                "required": ["city", "unit"],
                "additionalProperties": False,
            },
        },
    }
]

for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
    arguments = {"model": model, "messages": messages, "tools": tools, "tool_choice": choice, "temperature": 0}
    [call] = client.chat.completions.create(**arguments, max_tokens=128).choices[0].message.tool_calls[:1]
    assert call.function.name == "get_weather"
    given = json.loads(call.function.arguments)
    assert isinstance(given["city"], str) and given["unit"] in ("C", "F")
    with client.chat.completions.stream(**arguments, max_tokens=128) as stream:
        streamed = stream.get_final_completion().choices[0].message.tool_calls[0]
    assert json.loads(streamed.function.arguments) == given, streamed

answer = {"role": "tool", "tool_call_id": call.id, "content": "18 degrees"}
history = [*messages, {"role": "assistant", "tool_calls": [call.model_dump()]}, answer]
assert client.chat.completions.create(model=model, messages=history, tools=tools, max_tokens=8).choices[0].message


class City(BaseModel):
    name: str
    population: int


parsed = client.chat.completions.parse(model=model, messages=messages, response_format=City, max_tokens=200)
assert isinstance(parsed.choices[0].message.parsed, City), parsed

response = client.responses.create(model=model, input="Say hello.", max_output_tokens=16)
assert response.output_text, response
with client.responses.stream(model=model, input="Say hello.", max_output_tokens=16) as events:
    kinds = [event.type for event in events]
assert kinds[0] == "response.created" and kinds[-1] in ("response.completed", "response.incomplete"), kinds
assert client.responses.parse(model=model, input="A city.", text_format=City, max_output_tokens=200).output_parsed

embedder = openai.OpenAI(base_url=f"{embedding_url}/v1", api_key="none", max_retries=0)
vectors = [item.embedding for item in embedder.embeddings.create(model=embedding_model, input=["a cat", "a dog"]).data]
plain = embedder.embeddings.create(model=embedding_model, input="a cat", encoding_format="float").data[0].embedding
assert max(abs(a - b) for a, b in zip(vectors[0], plain, strict=True)) < 1e-6
assert math.isclose(math.hypot(*plain), 1, abs_tol=1e-3)
print(f"openai {openai.__version__}: ok")
