"""Whether a model pools prompts, and how: from the options, its architecture, and the files of sentence-transformers.

    pooler_for(options, checkpoint) -> PoolerSpec | None       None: it generates text
    longest_prompt(checkpoint) -> int | None                   what sentence_bert_config.json says

A folder of sentence-transformers lists its parts in modules.json: the transformer, the pooling, and perhaps a
normalisation. A folder without one is pooled as vLLM does it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from octavo.config import ModelConfig
from octavo.errors import ModelError
from octavo.models.checkpoint import Checkpoint
from octavo.models.config_reader import ConfigReader
from octavo.models.folder import read_json
from octavo.models.registry import encoder_for, head_of
from octavo.models.spec import LabelActivation, PoolerSpec, PoolingKind

MODES: dict[str, PoolingKind] = {
    "cls": "first",
    "mean": "mean",
    "max": "max",
    "lasttoken": "last",
}
"""sentence-transformers' names."""

OTHER_MODES = ("mean_sqrt_len", "weightedmean")


def pooler_for(options: ModelConfig, checkpoint: Checkpoint) -> PoolerSpec | None:
    """Raises ModelError for a model that cannot do what the options ask for."""
    config = checkpoint.config
    head, is_encoder = head_of(config), encoder_for(config) is not None
    architecture = config["architectures"][0]
    parts = _parts(checkpoint)
    pools = options.pools
    if pools is None:
        pools = is_encoder or head != "text" or parts is not None
    if not pools:
        if is_encoder or head != "text":
            raise ModelError(f"{architecture} generates no text: serve it with --runner pooling")
        return None
    wanted = options.converts_to or ("classify" if head == "labels" else "embed")
    if wanted == "embed":
        kind, normalize = parts or ("first" if is_encoder else "last", True)
        tasks = ("embed", "token_embed")
        only_last = ("embed",) if kind == "last" and not is_encoder else ()
        whole = tuple(task for task in tasks if task not in only_last)
        return PoolerSpec(tasks, whole, _width(config), kind, normalize)
    if head != "labels":
        raise ModelError(f"{architecture} has no classifier: --convert {wanted} needs one, --convert embed does not")
    return _classifier(config, wanted, is_encoder)


def longest_prompt(checkpoint: Checkpoint) -> int | None:
    """The tokens that sentence-transformers cuts a prompt to."""
    folder = _folder(checkpoint)
    length = None if folder is None else read_json(folder / "sentence_bert_config.json").get("max_seq_length")
    return length if type(length) is int and length > 0 else None


def _classifier(config: Mapping[str, Any], wanted: Literal["classify", "reward"], is_encoder: bool) -> PoolerSpec:
    labels = config.get("id2label")
    num_labels = len(labels) if isinstance(labels, dict) else ConfigReader(config).integer("num_labels", 2)
    tasks = ["reward"] if wanted == "reward" else ["classify"]
    if wanted == "classify" and num_labels == 1:
        tasks.append("score")
    if wanted == "classify" and not is_encoder:
        tasks.append("token_classify")
    whole = tasks if is_encoder else [task for task in tasks if task in ("reward", "token_classify")]
    return PoolerSpec(
        tuple(tasks),
        tuple(whole),
        _width(config),
        "first" if is_encoder else "last",
        normalize=False,
        dense=is_encoder,
        num_labels=num_labels,
        activation="identity" if wanted == "reward" else _activation(config, num_labels),
    )


def _width(config: Mapping[str, Any]) -> int:
    return ConfigReader(config).integer("hidden_size")


def _activation(config: Mapping[str, Any], num_labels: int) -> LabelActivation:
    """What a cross-encoder names, or what the kind of problem asks for."""
    own = config.get("sentence_transformers")
    named = own.get("activation_fn") if isinstance(own, dict) else config.get("sbert_ce_default_activation_function")
    if isinstance(named, str):
        known: dict[str, LabelActivation] = {"Identity": "identity", "Sigmoid": "sigmoid", "Softmax": "softmax"}
        activation = known.get(named.rpartition(".")[2])
        if activation is None:
            raise ModelError(f"the activation {named} of the model's config is not supported: {', '.join(known)} are")
        return activation
    problem = config.get("problem_type")
    if problem == "regression":
        return "identity"
    return "sigmoid" if num_labels == 1 or problem == "multi_label_classification" else "softmax"


def _folder(checkpoint: Checkpoint) -> Path | None:
    return checkpoint.source.path if checkpoint.source.format == "safetensors" else None


def _parts(checkpoint: Checkpoint) -> tuple[PoolingKind, bool] | None:
    """Kind of pooling, and whether vectors are normalised; None for a folder without modules.json."""
    folder = _folder(checkpoint)
    path = None if folder is None else folder / "modules.json"
    if folder is None or path is None or not path.is_file():
        return None
    try:
        modules = json.loads(path.read_bytes())
        if not isinstance(modules, list):
            raise TypeError("not a list")
        kinds = {str(module["type"]).rpartition(".")[2]: str(module["path"]) for module in modules}
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is no list of sentence-transformers' modules") from error
    others = kinds.keys() - {"Transformer", "Pooling", "Normalize"}
    if others:
        raise ModelError(f"{path}: the module {min(others)} is not supported; Pooling and Normalize are")
    if "Pooling" not in kinds:
        return None
    return _mode(folder / kinds["Pooling"] / "config.json"), "Normalize" in kinds


def _mode(path: Path) -> PoolingKind:
    """From the newer pooling_mode, or the older switches, of which one is on."""
    config = read_json(path)
    newer = config.get("pooling_mode")
    modes = (
        [newer]
        if newer is not None
        else [
            mode
            for mode in (*MODES, *OTHER_MODES)
            for key in (f"pooling_mode_{mode}", f"pooling_mode_{mode}_token", f"pooling_mode_{mode}_tokens")
            if config.get(key) is True
        ]
    )
    if len(modes) != 1 or modes[0] not in MODES:
        raise ModelError(f"{path}: pooling by {modes or 'nothing'} is not supported; one of {', '.join(MODES)} is")
    return MODES[modes[0]]
