"""/metrics: vLLM's names and labels, today's and the older ones, with values that add up."""

from server_process import LONG, MODEL, Client, ServerProcess, connect, until

LABELS = f'{{engine="0",model_name="{MODEL}"}}'

GAUGES = """num_requests_running num_requests_waiting num_requests_swapped kv_cache_usage_perc gpu_cache_usage_perc
cpu_cache_usage_perc avg_prompt_throughput_toks_per_s avg_generation_throughput_toks_per_s"""
COUNTERS = """prefix_cache_queries prefix_cache_hits num_preemptions prompt_tokens prompt_tokens_cached
external_prefix_cache_queries external_prefix_cache_hits mm_cache_queries mm_cache_hits generation_tokens"""
HISTOGRAMS = """time_to_first_token_seconds inter_token_latency_seconds time_per_output_token_seconds
request_time_per_output_token_seconds e2e_request_latency_seconds request_latency_seconds request_queue_time_seconds
request_inference_time_seconds request_prefill_time_seconds request_decode_time_seconds request_prompt_tokens
request_generation_tokens request_max_num_generation_tokens request_params_n request_params_max_tokens
request_prefill_kv_computed_tokens request_num_preemptions iteration_tokens_total"""


async def test_every_name_is_there(client: Client) -> None:
    await client.complete()
    values = await client.metrics()
    for name in GAUGES.split():
        assert f"vllm:{name}{LABELS}" in values, name
    for name in COUNTERS.split():
        assert f"vllm:{name}_total{LABELS}" in values, name
    for name in HISTOGRAMS.split():
        assert values[f"vllm:{name}_count{LABELS}"] > 0, name
        assert f"vllm:{name}_sum{LABELS}" in values
    assert f"octavo:kv_cache_waste_perc{LABELS}" in values
    names = " ".join(values)
    assert "vllm:cache_config_info{" in names
    assert 'num_gpu_blocks="' in names
    assert 'finished_reason="length"' in names
    assert 'http_requests_total{handler="/v1/completions",method="POST",status="2xx"}' in names
    assert 'http_request_duration_seconds_count{handler="/v1/completions",method="POST"}' in names


async def test_the_values_add_up(client: Client) -> None:
    async def figures() -> dict[str, float]:
        return await client.metrics()

    before = await figures()
    answer = await client.complete(max_tokens=10, n=3)
    after = await figures()

    def grown(name: str) -> float:
        return after[f"vllm:{name}{LABELS}"] - before[f"vllm:{name}{LABELS}"]

    assert grown("generation_tokens_total") == 30
    assert grown("request_generation_tokens_sum") == 30
    assert grown("request_generation_tokens_count") == 3
    assert grown("inter_token_latency_seconds_count") == grown("time_per_output_token_seconds_count") == 27
    assert grown("time_to_first_token_seconds_count") == 1
    assert grown("request_params_n_sum") == 3
    assert grown("request_params_max_tokens_sum") == 10
    assert grown("request_prompt_tokens_sum") == 3 * answer["usage"]["prompt_tokens"]
    assert 0 < grown("e2e_request_latency_seconds_sum") < 10
    assert grown("e2e_request_latency_seconds_sum") == grown("request_latency_seconds_sum")


async def test_prefix_hits_are_counted(client: Client) -> None:
    before = await client.metrics()
    prompt = list(range(100, 200))
    first = await client.complete(prompt=prompt, cache_salt="metrics")
    second = await client.complete(prompt=prompt, cache_salt="metrics")
    other = await client.complete(prompt=prompt, cache_salt="another")
    cached = [answer["usage"]["prompt_tokens_details"]["cached_tokens"] for answer in (first, second, other)]
    assert cached == [0, 96, 0]
    after = await client.metrics()
    name = f"vllm:prefix_cache_hits_total{LABELS}"
    assert after[name] - before[name] == 96

    def grown(name: str, source: str) -> float:
        labels = f'{{engine="0",model_name="{MODEL}",source="{source}"}}'
        return after[f"vllm:{name}_total{labels}"] - before[f"vllm:{name}_total{labels}"]

    assert grown("prompt_tokens_by_source", "local_cache_hit") == 96
    assert grown("prompt_tokens_cached_by_source", "local_cache_hit") == 96
    assert grown("prompt_tokens_by_source", "local_compute") == 3 * 100 - 96
    name = f"vllm:request_prefill_kv_computed_tokens_sum{LABELS}"
    assert after[name] - before[name] == 3 * 100 - 96


async def test_words_of_clients_are_no_labels(client: Client) -> None:
    before = len(await client.metrics())
    for number in range(50):
        async with client.session.request("REPORT", f"/nothing/{number}") as response:
            assert response.status == 404
    after = await client.metrics()
    assert len(after) <= before + 20
    assert after['http_requests_total{handler="none",method="other",status="4xx"}'] >= 50


async def test_the_buckets_are_vllms(client: Client) -> None:
    _, text = await client.get("/metrics")
    bounds = [
        line.partition('le="')[2].partition('"')[0]
        for line in text.splitlines()
        if line.startswith("vllm:time_to_first_token_seconds_bucket")
    ]
    assert bounds[:4] == ["0.001", "0.005", "0.01", "0.02"]
    assert bounds[-2:] == ["2560.0", "+Inf"]


async def test_little_of_the_kv_cache_is_wasted(long_client: Client, long_server: ServerProcess) -> None:
    """Less than a block of 16 slots a choice: under 4% from 200 tokens on."""
    async with connect(long_server.url) as session:
        response = await session.post("/v1/completions", json={**LONG, "n": 8, "stream": True})

        async def wasted() -> bool:
            values = await long_client.metrics()
            assert values[f"vllm:num_requests_running{LABELS}"] > 0, "it has ended already"
            return 0 < values[f"octavo:kv_cache_waste_perc{LABELS}"] < 0.04

        await until(wasted)
        response.close()
    await long_client.still_serves()
