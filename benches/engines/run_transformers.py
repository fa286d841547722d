"""Transformers' `generate`, in a process of its own. Prompts of a batch are of one length, so nothing is padded."""

from child import Generate, Prompts, options, serve


def load() -> tuple[Generate, dict[str, str]]:
    import torch
    import transformers

    given = options()
    torch.set_num_threads(given["threads"])
    model = transformers.AutoModelForCausalLM.from_pretrained(given["model"], dtype=getattr(torch, given["dtype"]))
    model.generation_config.eos_token_id = None

    def generate(prompts: Prompts, tokens: int) -> None:
        ids = torch.tensor(prompts)
        answer = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, pad_token_id=0
        )
        assert answer.shape == (len(prompts), len(prompts[0]) + tokens)

    return generate, {"transformers": transformers.__version__, "torch": torch.__version__}


if __name__ == "__main__":
    serve(load)
