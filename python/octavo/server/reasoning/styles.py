"""How models mark their reasoning, by the names that vLLM has for it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ReasoningStyle:
    starts: tuple[str, ...]
    ends: tuple[str, ...]
    always: bool = False
    """The output begins within the reasoning, unless the prompt has closed it; some models never write a start."""

    def opened_by(self, prompt: str) -> bool | None:
        """Whether the output begins within the reasoning, after it, or (None) as the model likes."""
        tail = prompt[-256:].rstrip()
        if tail.endswith(self.starts):
            return True
        if tail.endswith(self.ends):
            return False
        return True if self.always else None


THINK = ReasoningStyle(("<think>",), ("</think>",))
ALWAYS_THINK = ReasoningStyle(("<think>",), ("</think>",), always=True)
HARMONY = ReasoningStyle((), ())
"""gpt-oss: one parser reads channels, calls included (tools/harmony.py)."""

STYLES: dict[str, ReasoningStyle] = {
    "deepseek_r1": ALWAYS_THINK,
    "deepseek_v3": THINK,
    "glm45": THINK,
    "glm47": THINK,
    "granite": ReasoningStyle(
        ("Here is my thought process:", "Here's my thought process:"), ("Here is my response:", "Here's my response:")
    ),
    "granite_thinking_parser": THINK,
    "holo2": THINK,
    "mimo": THINK,
    "minimax_m2": ALWAYS_THINK,
    "mistral": ReasoningStyle(("[THINK]",), ("[/THINK]",)),
    "nemotron_v3": THINK,
    "olmo3": ALWAYS_THINK,
    "openai_gptoss": HARMONY,
    "qwen3": THINK,
    "seed_oss": ReasoningStyle(("<seed:think>",), ("</seed:think>",)),
    "step3": ALWAYS_THINK,
}


def style_of_template(template: str) -> str | None:
    """The style whose markers a chat template writes; None when it shows none."""
    marks = {
        "<|channel|>": "openai_gptoss",
        "[THINK]": "mistral",
        "<seed:think>": "seed_oss",
        "<think>": "qwen3",
        "</think>": "qwen3",
        "Here is my thought process": "granite",
    }
    return next((name for mark, name in marks.items() if mark in template), None)
