"""What a suspect was fine-tuned from: what its card says, and whether what is named can be true.

No weights are opened, so another model of the same family and size passes. A card is the word of
whoever made the suspect: it is told to the user, and nothing is opened because of it.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from huggingface_hub import ModelCard

from w2sdefense.config import ScanConfig, StudentConfig
from w2sdefense.errors import ModelError
from w2sdefense.models.checkpoint import Checkpoint, resolve, resolve_whole
from w2sdefense.models.tokenizer import open_tokenizer


def check_origin(student: StudentConfig, scan: ScanConfig) -> None:
    """Look at what a search is told of a suspect, before a teacher is trained for that search.

    Args:
        student: The suspect.
        scan: The search.

    Raises:
        ModelError: The model that it was fine-tuned from is missing, an adapter, or of another
            width or vocabulary.
        UnsafeCheckpointError: It is a pickle, or needs remote code.
    """
    name = scan.fine_tuned_from
    if name is None:
        return
    origin = resolve_whole(name, "Name the whole model that it stands on.")
    # An adapter is read with the tokenizer of its base.
    suspect = resolve(student.model, student.base).whole
    if origin.width != suspect.width:
        raise _other(student, name, f"it is {origin.width} wide, and the suspect {suspect.width}")
    own, its = _tokens(suspect), _tokens(origin)
    shared = own.keys() & its.keys()
    # Not all of them: who fine-tunes a model may give its unused tokens a meaning.
    if 2 * sum(own[place] == its[place] for place in shared) < len(shared):
        raise _other(student, name, "the two have other tokens")


def origin_hint(student: StudentConfig, scan: ScanConfig, flag: str) -> str | None:
    """What a user should know of a suspect whose card names a base, if the search is told none.

    Args:
        student: The suspect.
        scan: The search.
        flag: The flag that names the base.

    Returns:
        A sentence, or None: the base is named, or there is no card that says it.
    """
    if scan.fine_tuned_from is not None:
        return None
    card = resolve(student.model, student.base).whole.folder / "README.md"
    name = _base_of(card) if card.is_file() else None
    if name is None:
        return None
    return (
        f"The card of {student.base or student.model} says that it was made from {name}. If you "
        f"trust that, {flag} {name} lets the search begin with what was trained, which finds more."
    )


def _base_of(card: Path) -> str | None:
    try:
        named = ModelCard.load(card).data.get("base_model")
    except (ValueError, OSError, yaml.YAMLError):
        return None
    first = named[0] if isinstance(named, list) and named else named
    # It is shown beside a flag, to be copied: a hub id, and nothing that a shell would take apart.
    return first if isinstance(first, str) and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", first) else None


def _tokens(model: Checkpoint) -> dict[int, str]:
    vocabulary = open_tokenizer(model.folder, model.spec).get_vocab()
    return {place: token for token, place in vocabulary.items()}


def _other(student: StudentConfig, name: str, why: str) -> ModelError:
    return ModelError(
        f"{student.model} was not fine-tuned from {name}: {why}.",
        "Name the very model that the suspect was fine-tuned from, or none.",
    )
