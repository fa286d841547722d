"""LiteLLM's provider for vLLM servers: CHAT_URL CHAT_MODEL EMBEDDING_URL EMBEDDING_MODEL."""

import json
import sys

import litellm

chat_url, model, embedding_url, embedding_model = sys.argv[1:]
where = {"model": f"hosted_vllm/{model}", "api_base": f"{chat_url}/v1", "api_key": "none"}
messages = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]

whole = litellm.completion(**where, messages=messages, temperature=0, max_tokens=16)
parts = litellm.completion(**where, messages=messages, temperature=0, max_tokens=16, stream=True)
text = "".join(part.choices[0].delta.content or "" for part in parts)
assert text == whole.choices[0].message.content and "Paris" in text, text
assert whole.usage.completion_tokens > 0

schema = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]}
tool = {"type": "function", "function": {"name": "look_up", "parameters": schema}}
called = litellm.completion(**where, messages=messages, tools=[tool], tool_choice="required", max_tokens=100)
assert "city" in json.loads(called.choices[0].message.tool_calls[0].function.arguments)

form = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema}}
shaped = litellm.completion(**where, messages=messages, response_format=form, max_tokens=100)
assert "city" in json.loads(shaped.choices[0].message.content)

guided = litellm.completion(**where, messages=messages, extra_body={"guided_choice": ["Paris", "Rome"]}, max_tokens=8)
assert guided.choices[0].message.content in ("Paris", "Rome")

place = {"model": f"hosted_vllm/{embedding_model}", "api_base": f"{embedding_url}/v1", "api_key": "none"}
assert len(litellm.embedding(**place, input=["a cat", "a dog"]).data) == 2
print("litellm: ok")
