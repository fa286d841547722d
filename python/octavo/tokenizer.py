"""`ModelTokenizer`: a model's tokenizer by the names that scripts know from Transformers."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from octavo._core import Tokenizer

if TYPE_CHECKING:
    from octavo.models.checkpoint import Checkpoint

Message = Mapping[str, Any]


class Encoding(dict[str, Any]):
    """What a tokenizer's call returns; a key is an attribute too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class ModelTokenizer:
    """Encodes, decodes, and applies the chat template. `core` is the tokenizer in Rust, which does the work."""

    def __init__(self, core: Tokenizer, checkpoint: "Checkpoint", chat_template: str | None = None) -> None:
        self.core = core
        self.chat_template = chat_template or checkpoint.chat_template
        """Jinja source; None when the model is no chat model."""
        self._special_tokens = checkpoint.special_tokens
        self._eos_token_ids = checkpoint.eos_token_ids

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return self.core.encode(text, add_special_tokens)

    def decode(self, token_ids: int | Sequence[int], skip_special_tokens: bool = False) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else list(token_ids)
        return self.core.decode(ids, skip_special_tokens)

    def batch_decode(self, sequences: Sequence[Sequence[int]], skip_special_tokens: bool = False) -> list[str]:
        return [self.decode(ids, skip_special_tokens) for ids in sequences]

    def __call__(self, text: str | Sequence[str], add_special_tokens: bool = True) -> Encoding:
        """`input_ids` and `attention_mask` of a text, or of each in a list; nothing is padded."""
        if isinstance(text, str):
            ids = self.encode(text, add_special_tokens)
            return Encoding(input_ids=ids, attention_mask=[1] * len(ids))
        rows = [self.encode(one, add_special_tokens) for one in text]
        return Encoding(input_ids=rows, attention_mask=[[1] * len(row) for row in rows])

    def apply_chat_template(
        self,
        conversation: Sequence[Message] | Sequence[Sequence[Message]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = True,
        **variables: Any,
    ) -> Any:
        """The prompt of a conversation, or of each in a list: token ids, or text with `tokenize=False`.

        TemplateError (a ValueError) when there is no template, or it refuses the messages.
        """
        from octavo.server.template import ChatTemplate  # jinja2 is of no use to those who never chat

        source = chat_template or self.chat_template
        if source is None:
            raise ValueError("chat_template: the model has none; give one")
        template = ChatTemplate(source, self._special_tokens)
        one = not conversation or isinstance(conversation[0], Mapping)
        prompts = []
        for messages in [conversation] if one else conversation:
            text = template.render(
                messages,  # type: ignore[arg-type]  # a list of conversations was told apart above
                tools=tools,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                **variables,
            )
            prompts.append(self.core.encode(text, False) if tokenize else text)
        return prompts[0] if one else prompts

    def convert_ids_to_tokens(self, ids: int | Sequence[int]) -> Any:
        """The tokens as the vocabulary spells them; None for an id that is none."""
        return self.core.token(ids) if isinstance(ids, int) else [self.core.token(token) for token in ids]

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        return self.core.token_id(tokens) if isinstance(tokens, str) else [self.core.token_id(each) for each in tokens]

    def get_vocab(self) -> dict[str, int]:
        tokens = ((self.core.token(token_id), token_id) for token_id in range(self.vocab_size))
        return {token: token_id for token, token_id in tokens if token is not None}

    @property
    def vocab_size(self) -> int:
        return self.core.vocab_size

    def __len__(self) -> int:
        return self.core.vocab_size

    @property
    def eos_token(self) -> str | None:
        return self._special_tokens.get("eos_token")

    @property
    def eos_token_id(self) -> int | None:
        found = self._id("eos_token")
        return found if found is not None else next(iter(self._eos_token_ids), None)

    @property
    def bos_token(self) -> str | None:
        return self._special_tokens.get("bos_token")

    @property
    def bos_token_id(self) -> int | None:
        return self._id("bos_token")

    @property
    def pad_token(self) -> str | None:
        return self._special_tokens.get("pad_token")

    @property
    def pad_token_id(self) -> int | None:
        return self._id("pad_token")

    def _id(self, name: str) -> int | None:
        token = self._special_tokens.get(name)
        return None if token is None else self.core.token_id(token)
