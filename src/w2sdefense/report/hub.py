"""Uploads a cleaned model with its card.

Uploads only weights, tokenizer, configs and card: no settings file, record, samples or checkpoints.
The card and the configs contain no local paths.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from w2sdefense.data.hub import commit_of
from w2sdefense.errors import ConfigError
from w2sdefense.evaluation.record import model_folder
from w2sdefense.report.card import CARD, WEIGHTS, Cleaning, model_card, public, weights_in

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CONFIGS = "*config.json"  # files that may name where a model, a base or a tokenizer was read from
UPLOADED = (
    *("tokenizer.json", "vocab.json", "added_tokens.json", "special_tokens_map.json"),
    *("*.index.json", "*.txt", "*.model", "*.jinja", *WEIGHTS),
)


def check_push(name: str, api: HfApi | None = None) -> None:
    """Check, before the long work, that a model can be uploaded.

    Args:
        name: The repository, "user/name".
        api: The hub; by default that of the environment.

    Raises:
        ConfigError: The name is not valid, or the user is not logged in.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
        (api or HfApi()).whoami()
    except Exception as error:  # noqa: BLE001
        raise _not_pushed(name, error) from None


def push_model(folder: Path, name: str, cleaning: Cleaning, api: HfApi | None = None) -> str:
    """Upload a cleaned model with its card: `merged/` if there is one, else the folder itself.

    A repository that does not exist yet is created as private.

    Args:
        folder: The folder of `w2s defend`.
        name: The repository, "user/name".
        cleaning: What the card reports.
        api: The hub; by default that of the environment.

    Returns:
        Address of the model.

    Raises:
        ConfigError: The folder holds no weights, or the hub refuses or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = api or HfApi()
    source = model_folder(folder)
    if not any(weights_in(source)):
        raise ConfigError(
            f"{folder} holds no weights to upload.", "This defense leaves none: omit --push-to-hub."
        )
    files: dict[str, str | bytes] = {
        path.name: str(path) for pattern in UPLOADED for path in source.glob(pattern)
    }
    for path in source.glob(CONFIGS):
        values = public(json.loads(path.read_text(encoding="utf-8")))
        commit = commit_of(cleaning.sources[-1]) if cleaning.sources else None
        if commit and path.name == "adapter_config.json":
            values["revision"] = commit
        files[path.name] = json.dumps(values, indent=2).encode()
    files[CARD] = model_card(source, cleaning, address=name).encode()
    try:
        url = api.create_repo(name, private=True, exist_ok=True)
        api.create_commit(
            repo_id=name,
            operations=[CommitOperationAdd(to, what) for to, what in sorted(files.items())],
            commit_message="Upload a model cleaned by w2sdefense",
        )
    except Exception as error:  # noqa: BLE001
        raise _not_pushed(name, error) from None
    return str(url)


def _not_pushed(name: str, error: Exception) -> ConfigError:
    reason = " ".join(str(error).split())[:200]
    return ConfigError(
        f"Cannot upload to {name!r} ({type(error).__name__}: {reason}).",
        "Log in with `hf auth login`, name a repository of yours (user/name), or omit "
        "--push-to-hub; local results are kept.",
    )
