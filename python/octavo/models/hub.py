"""Downloads from the Hugging Face hub: only the files that octavo reads, and every failure as one clear line."""

from pathlib import Path
from typing import NoReturn

from octavo.errors import ModelError

_DESCRIPTION = ["*.json", "*.jinja", "tokenizer.model"]
_ELSEWHERE = ["*/*", "consolidated*.safetensors"]
"""Other formats' copies of the same weights."""


def download(repository: str, *, variant: str | None, revision: str | None, token: str | None, weights: bool) -> Path:
    """The local folder of a snapshot. `variant` (a quantisation, or a part of a file name) chooses among GGUF files.

    Without a network, a complete earlier download is used. Raises ModelError.
    """
    from huggingface_hub import snapshot_download

    wanted = list(_DESCRIPTION)
    if variant:
        wanted += [f"*{spelling}*.gguf" for spelling in {variant, variant.lower(), variant.upper()}]
    elif weights:
        wanted.append("*.safetensors")
    try:
        folder = snapshot_download(
            repository, revision=revision, token=token, allow_patterns=wanted, ignore_patterns=_ELSEWHERE
        )
    except Exception as error:
        _explain(repository, revision, bool(token), error)
    path = Path(folder)
    if weights and not any(path.glob("*.gguf" if variant else "*.safetensors")):
        _explain_no_weights(repository, variant, revision, token)
    return path


def _explain(repository: str, revision: str | None, has_token: bool, error: Exception) -> NoReturn:
    from huggingface_hub import errors

    at = f" at revision {revision!r}" if revision else ""
    status = getattr(getattr(error, "response", None), "status_code", None)
    advice = "the token in HF_TOKEN has no access to it" if has_token else "set HF_TOKEN to a token that has access"
    if isinstance(error, errors.GatedRepoError) or status == 403:
        reason = f"access to it is restricted: accept its terms at the hub, and {advice}"
    elif isinstance(error, errors.RevisionNotFoundError):
        reason = f"it has no revision {revision!r}"
    elif status == 401 or isinstance(error, errors.RepositoryNotFoundError):
        reason = f"there is no such folder here, and no such public model at the hub (if it is private, {advice})"
    elif isinstance(
        error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled | ConnectionError | TimeoutError
    ):
        reason = "there is no such folder here, and the hub cannot be reached; without a network, name a local path"
    elif isinstance(error, errors.HFValidationError):
        reason = "that is no Hugging Face id (organisation/model), and no such path exists"
    elif isinstance(error, OSError) and error.errno is not None:
        reason = f"its files cannot be stored: {error.strerror or error}"
    else:
        lines = str(error).strip().splitlines()
        reason = f"the download failed: {lines[0] if lines else type(error).__name__}"
    raise ModelError(f"model {repository!r}{at}: {reason}") from error


def _explain_no_weights(repository: str, variant: str | None, revision: str | None, token: str | None) -> NoReturn:
    """Asks the hub what the repository has instead; without an answer the message is shorter."""
    from huggingface_hub import HfApi

    try:
        names = HfApi().list_repo_files(repository, revision=revision, token=token)
    except Exception:  # the message is about the weights, whatever keeps the list from being read
        names = []
    ggufs = [name for name in names if name.endswith(".gguf")]
    if ggufs:
        hint = f"it has {', '.join(ggufs[:8])}: name one as {repository}:QUANTISATION"
    elif any(name.endswith((".bin", ".pt", ".pth")) for name in names):
        hint = "it has only pickled weights, which octavo never loads, since unpickling can run any code"
    else:
        hint = "is it a model?"
    missing = f"no GGUF file for {variant!r}" if variant else "no .safetensors files"
    raise ModelError(f"model {repository!r} has {missing}; {hint}")
