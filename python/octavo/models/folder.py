"""The small files of a Hugging Face model folder: config, tokenizer, special tokens, chat template."""

import json
from pathlib import Path
from typing import Any

from octavo.errors import ModelError

_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; {} when there is no such file. ModelError when it is damaged."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object")
    return value


def read_config(folder: Path) -> dict[str, Any]:
    """config.json, which every model folder must have."""
    if not (folder / "config.json").is_file():
        hint = "it is a Mistral-format folder, which is not supported" if (folder / "params.json").is_file() else ""
        raise ModelError(f"{folder} has no config.json{'; ' if hint else ''}{hint}")
    return read_json(folder / "config.json")


def tokenizer_json(folder: Path) -> bytes:
    """tokenizer.json as it stands. ModelError, saying what to do, when there is none."""
    path = folder / "tokenizer.json"
    if path.is_file():
        read_json(path)
        return path.read_bytes()
    if (folder / "tokenizer.model").is_file() or (folder / "vocab.json").is_file():
        raise ModelError(
            f"{folder} has an older tokenizer and no tokenizer.json; write one with Transformers: "
            f"AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r}), or use --tokenizer"
        )
    raise ModelError(f"{folder} has no tokenizer.json; name the tokenizer's folder or model with --tokenizer")


def special_tokens(folder: Path) -> dict[str, str]:
    """Special tokens as text, from tokenizer_config.json or the older special_tokens_map.json."""
    found: dict[str, str] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        values = read_json(folder / file)
        for name in _SPECIAL_TOKENS:
            token = values.get(name)
            text = token.get("content") if isinstance(token, dict) else token
            if isinstance(text, str):
                found[name] = text
    return found


def token_id(folder: Path, token: str | None) -> int | None:
    """The id of an added token, from tokenizer_config.json or tokenizer.json."""
    if token is None:
        return None
    for key, entry in (read_json(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}).items():
        if isinstance(entry, dict) and entry.get("content") == token and key.isdigit():
            return int(key)
    for entry in read_json(folder / "tokenizer.json").get("added_tokens") or []:
        if isinstance(entry, dict) and entry.get("content") == token and type(entry.get("id")) is int:
            return int(entry["id"])
    return None


def chat_template(folder: Path) -> str | None:
    """chat_template.jinja, chat_template.json, or the one in tokenizer_config.json ("default" among several)."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"cannot read {path}: {error}") from error
    for file in ("chat_template.json", "tokenizer_config.json"):
        template = read_json(folder / file).get("chat_template")
        if isinstance(template, list):
            named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
            template = named.get("default")
        if isinstance(template, str) and template:
            return template
    return None
