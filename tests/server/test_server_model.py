"""The real SmolLM2 behind the server: sensible words, the same whole and streamed, and repeatable."""

from pathlib import Path

from server_process import Client, ServerProcess

MESSAGES = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]


async def test_chat_answers_sensibly_and_the_same_in_both_ways(model_client: Client) -> None:
    body = {"messages": MESSAGES, "max_tokens": 16, "temperature": 0}
    _, whole = await model_client.post("/v1/chat/completions", body)
    (choice,) = whole["choices"]
    assert "Paris" in choice["message"]["content"]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", None)
    events = await model_client.stream("/v1/chat/completions", body)
    text = "".join(event["choices"][0]["delta"].get("content") or "" for event in events)
    assert text == choice["message"]["content"]
    assert len(events) > 3


def test_neither_process_loads_torch(model_server: ServerProcess) -> None:
    for pid in (model_server.process.pid, model_server.engine_pid):
        mapped = Path(f"/proc/{pid}/maps").read_text()
        assert "octavo/_core" in mapped
        assert "torch" not in mapped


def test_the_engine_lets_the_file_go(model_server: ServerProcess) -> None:
    assert ".gguf" not in Path(f"/proc/{model_server.engine_pid}/maps").read_text()


async def test_the_same_seed_gives_the_same_text(model_client: Client) -> None:
    body = {"messages": MESSAGES, "max_tokens": 12, "temperature": 1.0, "n": 2}
    texts = []
    for seed in (7, 7, 8):
        _, answer = await model_client.post("/v1/chat/completions", {**body, "seed": seed})
        texts.append([choice["message"]["content"] for choice in answer["choices"]])
    assert texts[0] == texts[1] != texts[2]
    assert texts[0][0] != texts[0][1]


async def test_logprobs_agree_with_the_text(model_client: Client) -> None:
    body = {"prompt": "The sky is", "max_tokens": 6, "temperature": 0, "logprobs": 3}
    _, answer = await model_client.post("/v1/completions", body)
    (choice,) = answer["choices"]
    arrays = choice["logprobs"]
    assert "".join(arrays["tokens"]) == choice["text"]
    for token, logprob, top in zip(arrays["tokens"], arrays["token_logprobs"], arrays["top_logprobs"], strict=True):
        assert top[token] == max(top.values()) == logprob <= 0
        assert len(top) == 3


async def test_a_logit_bias_decides(model_client: Client) -> None:
    _, tokens = await model_client.post("/tokenize", {"prompt": " blue"})
    (token,) = tokens["tokens"]
    body = {"prompt": "The sky is", "max_tokens": 3, "temperature": 0, "logit_bias": {str(token): 100}}
    _, answer = await model_client.post("/v1/completions", body)
    assert answer["choices"][0]["text"] == " blue blue blue"
