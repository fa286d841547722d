"""OpenVINO GenAI's continuous batching, in a process of its own. It reads the GGUF file itself."""

from importlib.metadata import version

from child import Generate, Prompts, options, serve


def load() -> tuple[Generate, dict[str, str]]:
    import numpy as np
    import openvino
    import openvino_genai

    given = options()
    scheduler = openvino_genai.SchedulerConfig()
    for name, value in given["scheduler"].items():
        setattr(scheduler, name, value)
    properties = {"INFERENCE_NUM_THREADS": given["threads"]}
    pipeline = openvino_genai.ContinuousBatchingPipeline(
        given["model"], scheduler_config=scheduler, device="CPU", properties=properties
    )

    def generate(prompts: Prompts, tokens: int) -> None:
        parameters = openvino_genai.GenerationConfig()
        parameters.max_new_tokens, parameters.ignore_eos, parameters.do_sample = tokens, True, False
        tensors = [openvino.Tensor(np.array([prompt], dtype=np.int64)) for prompt in prompts]
        answers = pipeline.generate(tensors, [parameters] * len(tensors))
        assert all(len(answer.m_generation_ids[0]) == tokens for answer in answers)

    return generate, {"openvino-genai": version("openvino-genai")}


if __name__ == "__main__":
    serve(load)
