"""What a source says of its tokenizer, read when it is first asked for: the engine needs none of it.

FolderTokenizer    from the JSON files of a Hugging Face folder
GGUFTokenizer      from the metadata of a GGUF file
"""

from functools import cached_property
from pathlib import Path
from typing import Protocol

from octavo._core import Tokenizer
from octavo.errors import ModelError
from octavo.models import folder as folders
from octavo.models.gguf import GGUFFile
from octavo.models.tokenizer import GGUFVocabulary


class TokenizerFiles(Protocol):
    """Every read raises ModelError for files that are missing or damaged."""

    def tokenizer(self) -> Tokenizer: ...

    @property
    def chat_template(self) -> str | None: ...

    @property
    def special_tokens(self) -> dict[str, str]:
        """bos_token, eos_token, … as text."""

    @property
    def eos_token_ids(self) -> tuple[int, ...]: ...


class FolderTokenizer:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def tokenizer(self) -> Tokenizer:
        try:
            return Tokenizer.from_json(folders.tokenizer_json(self._folder))
        except ValueError as error:
            raise ModelError(f"{self._folder}: the tokenizer cannot be used: {error}") from None

    @cached_property
    def chat_template(self) -> str | None:
        return folders.chat_template(self._folder)

    @cached_property
    def special_tokens(self) -> dict[str, str]:
        return folders.special_tokens(self._folder)

    @cached_property
    def eos_token_ids(self) -> tuple[int, ...]:
        eos = folders.token_id(self._folder, self.special_tokens.get("eos_token"))
        return () if eos is None else (eos,)


class GGUFTokenizer:
    def __init__(self, file: GGUFFile) -> None:
        self._file = file

    @cached_property
    def _vocabulary(self) -> GGUFVocabulary:
        return GGUFVocabulary(self._file.metadata, str(self._file.path))

    def tokenizer(self) -> Tokenizer:
        return self._vocabulary.tokenizer()

    @property
    def chat_template(self) -> str | None:
        template = self._file.metadata.get("tokenizer.chat_template")
        return template if isinstance(template, str) and template else None

    @property
    def special_tokens(self) -> dict[str, str]:
        return self._vocabulary.special_tokens

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        return self._vocabulary.eos_token_ids
