"""The routes of models that pool, with small random BERTs: embeddings, scores, ranks, classes, and what is refused."""

import base64
import json
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import pytest_asyncio
from server_process import Client, ServerProcess, connect
from tiny_bert import HIDDEN, LENGTH, write

from octavo import LLM, AsyncEngineArgs, AsyncLLM, LLMEngine, PoolingParams

TEXTS = ["the cat sits on the mat", "a quick red dog runs", "old tree", "the small cat sits on a mat"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bert")
    return {
        "embed": write(root / "embed"),
        "matryoshka": write(root / "matryoshka", matryoshka_dimensions=[8, 16]),
        "classify": write(root / "classify", num_labels=3),
        "score": write(root / "score", num_labels=1),
    }


def serving(folder: Path) -> ServerProcess:
    return ServerProcess({"backend": "model", "model": {"model": str(folder)}}, {"served_model_names": ["tiny"]})


@pytest.fixture(scope="module")
def embedding_server(folders: dict[str, Path]) -> Iterator[ServerProcess]:
    with serving(folders["embed"]) as server:
        yield server


@pytest_asyncio.fixture
async def embedder(embedding_server: ServerProcess) -> AsyncIterator[Client]:
    async with connect(embedding_server.url) as session:
        yield Client(session)


async def post(client: Client, path: str, **body: Any) -> Any:
    status, answer = await client.post(path, body)
    assert status == 200, answer
    return answer


async def vectors(client: Client, texts: Any, **fields: Any) -> Any:
    answer = await post(client, "/v1/embeddings", input=texts, **fields)
    assert [item["index"] for item in answer["data"]] == list(range(len(answer["data"])))
    return np.array([item["embedding"] for item in answer["data"]])


async def refused(client: Client, path: str, **body: Any) -> str:
    """The field that a 400 names."""
    status, answer = await client.post(path, body)
    assert status == 400, answer
    error = answer["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return str(error["param"])


# ---------------------------------------------------------------- embeddings


async def test_the_openai_client_gets_what_llm_embed_gives(
    embedding_server: ServerProcess, folders: dict[str, Path]
) -> None:
    async with openai.AsyncOpenAI(base_url=f"{embedding_server.url}/v1", api_key="none") as client:
        encoded = await client.embeddings.create(model="tiny", input=TEXTS)  # asks for base64 by itself
        plain = await client.embeddings.create(model="tiny", input=TEXTS, encoding_format="float")
    assert [item.embedding for item in encoded.data] == [item.embedding for item in plain.data]
    assert encoded.usage.prompt_tokens == encoded.usage.total_tokens == sum(len(text.split()) + 2 for text in TEXTS)
    with LLM(str(folders["embed"])) as llm:
        outputs = llm.embed(TEXTS, use_tqdm=False)
        (score,) = llm.score(TEXTS[0], TEXTS[3], use_tqdm=False)
        with pytest.raises(ValueError, match="this model does"):
            llm.classify(TEXTS[0], use_tqdm=False)
        with pytest.raises(ValueError):  # noqa: PT011  the engine's own words
            llm.generate(TEXTS[0], use_tqdm=False)
    assert [output.outputs.embedding for output in outputs] == [item.embedding for item in plain.data]
    first, last = np.array(plain.data[0].embedding), np.array(plain.data[3].embedding)
    assert score.outputs.score == pytest.approx(first @ last, abs=1e-5)
    assert np.linalg.norm(first) == pytest.approx(1, abs=1e-5)


async def test_every_python_interface_gives_the_same(embedder: Client, folders: dict[str, Path]) -> None:
    (wanted,) = await vectors(embedder, TEXTS[0])
    arguments = AsyncEngineArgs(str(folders["embed"]))
    engine = LLMEngine.from_engine_args(arguments)
    engine.add_request("one", TEXTS[0], PoolingParams(task="embed"))
    outputs: list[Any] = []
    while engine.has_unfinished_requests():
        outputs += engine.step()
    outputs += engine.step()
    assert [output.request_id for output in outputs] == ["one"]
    assert outputs[0].outputs.data.tolist() == wanted.tolist()
    with pytest.raises(ValueError, match="dimensions"):
        engine.add_request("two", TEXTS[0], PoolingParams(dimensions=4))
    llm = AsyncLLM.from_engine_args(arguments)
    found = [output async for output in llm.encode(TEXTS[0], PoolingParams(task="embed"), "one")]
    assert [output.outputs.data.tolist() for output in found] == [wanted.tolist()]
    with pytest.raises(ValueError, match="classify"):
        await anext(llm.encode(TEXTS[0], PoolingParams(task="classify"), "two"))
    llm.shutdown()


async def test_every_form_of_input_gives_the_same(embedder: Client) -> None:
    one = await vectors(embedder, TEXTS[0])
    (tokens,) = [(await post(embedder, "/tokenize", prompt=TEXTS[0]))["tokens"]]
    assert (await vectors(embedder, [TEXTS[0], TEXTS[1]]))[:1].tolist() == one.tolist()
    assert (await vectors(embedder, tokens)).tolist() == one.tolist()
    assert (await vectors(embedder, [tokens, tokens])).tolist() == [*one.tolist()] * 2
    bare = await vectors(embedder, TEXTS[0], add_special_tokens=False)
    assert bare.tolist() == (await vectors(embedder, tokens[1:-1])).tolist() != one.tolist()


@pytest.mark.parametrize(("kind", "tolerance"), [("float32", 0), ("float16", 1e-3), ("bfloat16", 8e-3)])
@pytest.mark.parametrize("endianness", ["little", "big"])
async def test_bytes_say_what_numbers_say(embedder: Client, kind: str, tolerance: float, endianness: str) -> None:
    wanted = await vectors(embedder, TEXTS)
    fields = {"embed_dtype": kind, "endianness": endianness}
    answer = await post(embedder, "/v1/embeddings", input=TEXTS, encoding_format="base64", **fields)
    found = [numbers(base64.b64decode(item["embedding"]), kind, endianness) for item in answer["data"]]
    np.testing.assert_allclose(found, wanted, atol=tolerance)
    body = {"input": TEXTS, "encoding_format": "bytes", **fields}
    async with embedder.session.post("/v1/embeddings", json=body) as response:
        assert response.content_type == "application/octet-stream"
        metadata, data = json.loads(response.headers["metadata"]), await response.read()
    found = [numbers(data[item["start"] : item["end"]], kind, endianness) for item in metadata["data"]]
    np.testing.assert_allclose(found, wanted, atol=tolerance)
    assert metadata["data"][0]["shape"] == [HIDDEN]


def numbers(data: bytes, kind: str, endianness: str) -> Any:
    order = "<" if endianness == "little" else ">"
    if kind == "bfloat16":
        return (np.frombuffer(data, f"{order}u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, f"{order}f{4 if kind == 'float32' else 2}")


async def test_more_inputs_than_a_window_keep_their_order(embedder: Client) -> None:
    texts = [TEXTS[index % 4] for index in range(600)]
    found = await vectors(embedder, texts)
    np.testing.assert_allclose(found, (await vectors(embedder, TEXTS))[np.arange(600) % 4], atol=1e-6)


async def test_long_inputs_are_refused_or_cut(embedder: Client) -> None:
    text = "cat dog " * LENGTH
    assert await refused(embedder, "/v1/embeddings", input=[TEXTS[0], text]) == "input"
    answer = await post(embedder, "/v1/embeddings", input=text, truncate_prompt_tokens=-1)
    assert answer["usage"]["prompt_tokens"] == LENGTH
    right = await vectors(embedder, "cat dog mat", truncate_prompt_tokens=4)
    left = await vectors(embedder, "cat dog mat", truncate_prompt_tokens=4, truncation_side="left")
    np.testing.assert_allclose(right, await vectors(embedder, "cat dog"), atol=1e-6)
    np.testing.assert_allclose(left, await vectors(embedder, "dog mat"), atol=1e-6)


async def test_activations_can_be_left_out(embedder: Client) -> None:
    plain = await vectors(embedder, TEXTS[0], use_activation=False)
    assert abs(np.linalg.norm(plain) - 1) > 0.1
    assert plain.tolist() == (await vectors(embedder, TEXTS[0], normalize=False)).tolist()
    np.testing.assert_allclose(plain / np.linalg.norm(plain), await vectors(embedder, TEXTS[0]), atol=1e-5)


async def test_cohere_clients_get_their_form(embedder: Client) -> None:
    fields = {"model": "tiny", "texts": TEXTS, "input_type": "search_document"}
    kinds = ["float", "base64", "binary", "ubinary"]
    answer = await post(embedder, "/v2/embed", embedding_types=kinds, **fields)
    wanted = await vectors(embedder, TEXTS)
    embeddings = answer["embeddings"]
    np.testing.assert_allclose(embeddings["float"], wanted, atol=1e-6)
    assert numbers(base64.b64decode(embeddings["base64"][0]), "float32", "little").tolist() == embeddings["float"][0]
    assert embeddings["ubinary"][0] == np.packbits(wanted[0] > 0).tolist()
    assert embeddings["binary"][0] == [byte - 128 for byte in embeddings["ubinary"][0]]
    assert set((await post(embedder, "/v2/embed", **fields))["embeddings"]) == {"float"}


# ---------------------------------------------------------------- scores


async def test_scores_of_an_embedding_model_are_cosines(embedder: Client) -> None:
    wanted = await vectors(embedder, TEXTS)
    answer = await post(embedder, "/score", text_1=TEXTS[0], text_2=TEXTS)
    np.testing.assert_allclose([item["score"] for item in answer["data"]], wanted @ wanted[0], atol=1e-5)
    same = await post(embedder, "/v1/score", queries=TEXTS, documents=[{"text": text} for text in TEXTS])
    np.testing.assert_allclose([item["score"] for item in same["data"]], [1] * 4, atol=1e-5)
    assert same["object"] == "list"
    assert same["data"][3] == {"index": 3, "object": "score", "score": same["data"][3]["score"]}


async def test_documents_come_best_first(embedder: Client) -> None:
    answer = await post(embedder, "/v1/rerank", query=TEXTS[0], documents=TEXTS)
    found = answer["results"]
    assert found[0]["document"] == {"text": TEXTS[0], "multi_modal": None}
    scores = [item["relevance_score"] for item in found]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(1, abs=1e-5)
    assert sorted(item["index"] for item in found) == [0, 1, 2, 3]
    assert answer["usage"]["total_tokens"] > 0
    short = await post(embedder, "/v2/rerank", query=TEXTS[0], documents=TEXTS, top_n=2, return_documents=False)
    assert short["results"] == [
        {"index": item["index"], "relevance_score": item["relevance_score"]} for item in found[:2]
    ]
    cut = await post(embedder, "/rerank", query="cat mat", documents=["cat dog", "mat"], max_tokens_per_query=1)
    whole = await post(embedder, "/rerank", query="cat", documents=["cat dog", "mat"])
    assert cut["results"] == whole["results"]


async def test_a_cross_encoder_reads_the_pair(folders: dict[str, Path]) -> None:
    with serving(folders["score"]) as server, LLM(str(folders["score"])) as llm:
        async with connect(server.url) as session:
            client = Client(session)
            scored = await post(client, "/score", text_1=TEXTS[0], text_2=TEXTS)
            ranked = await post(client, "/rerank", query=TEXTS[0], documents=TEXTS)
            plain = await post(client, "/score", text_1=TEXTS[0], text_2=TEXTS, use_activation=False)
            assert await refused(client, "/v1/embeddings", input="cat") == "model"
        values = [item["score"] for item in scored["data"]]
        assert {item["index"]: item["relevance_score"] for item in ranked["results"]} == dict(enumerate(values))
        assert [output.outputs.score for output in llm.score(TEXTS[0], TEXTS, use_tqdm=False)] == values
        raw = [
            output.outputs.score
            for output in llm.score(TEXTS[0], TEXTS, pooling_params=PoolingParams(use_activation=False), use_tqdm=False)
        ]
    assert raw == [item["score"] for item in plain["data"]]
    np.testing.assert_allclose(values, 1 / (1 + np.exp(-np.array(raw))), atol=1e-6)
    assert scored["usage"]["prompt_tokens"] == sum(len(f"{TEXTS[0]} {text}".split()) + 3 for text in TEXTS)


# ---------------------------------------------------------------- classes, /pooling, /invocations


async def test_classes_have_names_and_probabilities(folders: dict[str, Path]) -> None:
    with serving(folders["classify"]) as server:
        async with connect(server.url) as session:
            client = Client(session)
            answer = await post(client, "/classify", input=TEXTS)
            pooled = await post(client, "/pooling", input=TEXTS)
            invoked = await post(client, "/invocations", input=TEXTS)
    for item in answer["data"]:
        assert item["num_classes"] == len(item["probs"]) == 3
        assert sum(item["probs"]) == pytest.approx(1, abs=1e-5)
        assert item["label"] == f"CLASS_{int(np.argmax(item['probs']))}"
    assert [item["data"] for item in pooled["data"]] == [item["probs"] for item in answer["data"]]
    assert invoked["data"] == answer["data"]
    with LLM(str(folders["classify"])) as llm:
        outputs = llm.classify(TEXTS, use_tqdm=False)
    assert [output.outputs.probs for output in outputs] == [item["probs"] for item in answer["data"]]


async def test_pooling_gives_the_vector_or_one_a_token(embedder: Client) -> None:
    whole = await post(embedder, "/pooling", input=TEXTS[0], task="embed")
    assert whole["data"][0]["data"] == (await vectors(embedder, TEXTS[0]))[0].tolist()
    tokens = await post(embedder, "/pooling", input=TEXTS[0], task="token_embed")
    assert np.array(tokens["data"][0]["data"]).shape == (len(TEXTS[0].split()) + 2, HIDDEN)
    assert whole["object"] == "list"
    assert whole["data"][0]["object"] == "pooling"


async def test_an_invocation_goes_where_its_fields_belong(embedder: Client) -> None:
    embedded = await post(embedder, "/invocations", input=TEXTS[0])
    assert embedded["data"][0]["object"] == "embedding"
    ranked = await post(embedder, "/invocations", query=TEXTS[0], documents=TEXTS)
    assert ranked["results"][0]["index"] == 0
    scored = await post(embedder, "/invocations", text_1=TEXTS[0], text_2=TEXTS)
    assert len(scored["data"]) == 4
    assert (await embedder.post("/invocations", {"something": 1}))[0] == 400


# ---------------------------------------------------------------- refusals


async def test_only_matryoshka_embeddings_can_be_short(embedder: Client, folders: dict[str, Path]) -> None:
    assert await refused(embedder, "/v1/embeddings", input="cat", dimensions=8) == "dimensions"
    assert (await vectors(embedder, "cat", dimensions=HIDDEN)).shape == (1, HIDDEN)
    with serving(folders["matryoshka"]) as server:
        async with connect(server.url) as session:
            client = Client(session)
            short = await vectors(client, "cat", dimensions=8)
            whole = await vectors(client, "cat")
            assert await refused(client, "/v1/embeddings", input="cat", dimensions=9) == "dimensions"
    np.testing.assert_allclose(short[0], whole[0, :8] / np.linalg.norm(whole[0, :8]), atol=1e-5)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/embeddings", {}, "input"),
        ("/v1/embeddings", {"input": []}, "input"),
        ("/v1/embeddings", {"input": 7}, "input"),
        ("/v1/embeddings", {"input": ["cat", [1]]}, "input"),
        ("/v1/embeddings", {"input": [99_999]}, "input"),
        ("/v1/embeddings", {"input": ["cat"] * 3000}, "input"),
        ("/v1/embeddings", {"input": "cat", "messages": []}, "input"),
        ("/v1/embeddings", {"input": "cat", "encoding_format": "hex"}, "encoding_format"),
        ("/v1/embeddings", {"input": "cat", "embed_dtype": "float16"}, "embed_dtype"),
        ("/v1/embeddings", {"input": "cat", "endianness": "big"}, "endianness"),
        ("/v1/embeddings", {"input": "cat", "dimensions": 0}, "dimensions"),
        ("/v1/embeddings", {"input": "cat", "truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ("/v1/embeddings", {"input": "cat", "truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ("/v1/embeddings", {"input": "cat", "normalize": True, "use_activation": False}, "normalize"),
        ("/v1/embeddings", {"input": "cat", "chat_template": "{{ x }}"}, "chat_template"),
        ("/v1/embeddings", {"input": "cat", "padding": "max_length"}, "padding"),
        ("/v1/embeddings", {"input": "cat", "priority": 1}, "priority"),
        ("/v1/embeddings", {"input": "cat", "temperature": 1}, "temperature"),
        ("/v2/embed", {"texts": []}, "texts"),
        ("/v2/embed", {"texts": ["cat"], "embedding_types": ["int8"]}, "embedding_types"),
        ("/v2/embed", {"texts": ["cat"], "max_tokens": 3, "truncate": "NONE"}, "max_tokens"),
        ("/v2/embed", {"texts": ["cat"], "images": ["x"]}, "images"),
        ("/score", {}, "text_1"),
        ("/score", {"text_1": "cat"}, "text_2"),
        ("/score", {"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}, "text_2"),
        ("/score", {"text_1": "a", "text_2": "b", "queries": "c"}, "text_1"),
        ("/score", {"text_1": "a", "text_2": {"image": "b"}}, "text_2"),
        ("/score", {"text_1": "a", "text_2": []}, "text_2"),
        ("/rerank", {"query": "cat"}, "documents"),
        ("/rerank", {"query": ["cat"], "documents": ["dog"]}, "query"),
        ("/rerank", {"query": "cat", "documents": ["dog"], "top_n": -1}, "top_n"),
        ("/rerank", {"query": "cat", "documents": ["dog"], "instruction": "find"}, "instruction"),
        ("/classify", {"input": "cat"}, "model"),
        ("/pooling", {"input": "cat", "task": "reward"}, "model"),
        ("/pooling", {"input": "cat", "task": "dance"}, "task"),
    ],
)
async def test_what_cannot_be_done_is_named(embedder: Client, path: str, body: dict[str, Any], param: str) -> None:
    assert await refused(embedder, path, **body) == param


BODIES: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {"input": ["cat", "dog"], "encoding_format": "base64", "dimensions": HIDDEN, "endianness": "big"},
    "/v2/embed": {"texts": ["cat"], "embedding_types": ["float", "binary"], "truncate": "END", "max_tokens": 4},
    "/pooling": {"input": [1, 2, 3], "task": "token_embed", "encoding_format": "bytes"},
    "/score": {"text_1": "cat", "text_2": ["a", {"text": "b"}], "max_tokens_per_doc": 2},
    "/rerank": {"query": "cat", "documents": ["a", "b"], "top_n": 1},
    "/invocations": {"input": "cat", "query": "a", "documents": ["x"]},
}
VALUES: list[Any] = [
    *(None, True, 0, -1, 2**31, 2**70, 1e308, -0.5, "", "cat", "\0", "bytes", [], {}, [[]], [[1]], [1, "a"], ["a", 1]),
    *([-1], [10**9], {"a": 1}, [{"text": 1}], {"content": [{"type": "text", "text": "x"}]}, ["cat"] * 50, [None]),
]


async def test_no_mutated_body_is_more_than_a_400(embedder: Client) -> None:
    generator = random.Random(5)
    statuses = set()
    for _ in range(300):
        path, body = generator.choice([*BODIES.items()])
        changed = dict(body)
        for name in generator.sample([*body, "messages", "input", "truncate_prompt_tokens"], 2):
            changed[name] = generator.choice(VALUES)
        async with embedder.session.post(path, json=changed) as response:
            statuses.add(response.status)
            assert response.status in (200, 400), (path, changed, await response.text())
    assert statuses == {200, 400}
    assert (await embedder.get("/health"))[0] == 200


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_a_model_that_pools_does_not_generate(embedder: Client, path: str) -> None:
    body = {"prompt": "cat"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "cat"}]}
    assert (await embedder.post(path, body))[0] == 400
    assert (await embedder.get("/health"))[0] == 200


@pytest.mark.parametrize(
    ("path", "body", "flag"),
    [
        ("/v1/embeddings", {"input": "cat"}, "--convert embed"),
        ("/v2/embed", {"texts": ["cat"]}, "--convert embed"),
        ("/pooling", {"input": "cat"}, "--runner pooling"),
        ("/classify", {"input": "cat"}, "classifier"),
        ("/score", {"text_1": "a", "text_2": "b"}, "--convert"),
        ("/rerank", {"query": "a", "documents": ["b"]}, "--convert"),
    ],
)
async def test_a_model_that_generates_says_what_it_takes(client: Client, path: str, body: Any, flag: str) -> None:
    status, answer = await client.post(path, body)
    assert status == 400
    assert flag in answer["error"]["message"]
