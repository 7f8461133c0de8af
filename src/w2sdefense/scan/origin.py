"""What a suspect was fine-tuned from: what the user or its card says, and whether weights agree.

A card is the word of whoever made the suspect. What it names is used only where it is on this
machine already (embedded, cached or a folder) and the token embeddings of the two agree; nothing is
fetched because of it. Embeddings of models that were trained apart are unrelated, and fine-tuning
hardly turns them, so another model of the same family and size does not pass.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from huggingface_hub import ModelCard, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from torch import Tensor
from torch.nn.functional import cosine_similarity

from w2sdefense.config import ScanConfig, StudentConfig
from w2sdefense.errors import ModelError, W2SError
from w2sdefense.models.checkpoint import SAFE_DOWNLOADS, Checkpoint, resolve, resolve_whole
from w2sdefense.models.embedded import EMBEDDED
from w2sdefense.models.load import load_embeddings
from w2sdefense.models.tokenizer import open_tokenizer

AGREE = 0.5
"""Cosine of two tables of embeddings from which one descends from the other; unrelated ones have
about 0, and those of the fine-tuned models that were measured above 0.99."""

_EMBEDDED_AS = {"HuggingFaceTB/SmolLM2-135M-Instruct": "smollm2-135m"}
"""Hub id -> embedded name of the same model."""


def check_origin(student: StudentConfig, scan: ScanConfig) -> None:
    """Check the base that a user names, before a teacher is trained for the search.

    Args:
        student: The suspect.
        scan: The search.

    Raises:
        ModelError: The base is missing, an adapter, of another width or vocabulary, or its
            embeddings are unrelated to the suspect's.
        UnsafeCheckpointError: It is a pickle, or needs remote code.
    """
    name = scan.fine_tuned_from
    if name is None:
        return
    origin = resolve_whole(name, "Name the whole model that it stands on.")
    # An adapter is read with the tokenizer of its base, and has its embeddings.
    suspect = resolve(student.model, student.base).whole
    if origin.width != suspect.width:
        raise _other(student, name, f"it is {origin.width} wide, and the suspect {suspect.width}")
    own, its = _tokens(suspect), _tokens(origin)
    shared = own.keys() & its.keys()
    # Not all of them: who fine-tunes a model may give its unused tokens a meaning.
    if 2 * sum(own[place] == its[place] for place in shared) < len(shared):
        raise _other(student, name, "the two have other tokens")
    cosine = agreement(load_embeddings(suspect), load_embeddings(origin))
    if cosine < AGREE:
        raise _other(student, name, f"their embeddings are unrelated (cosine {cosine:.2f})")


def agreement(suspect: Tensor, base: Tensor) -> float:
    """Cosine of two tables of token embeddings, (V, d) and (V', d), over the rows they share.

    Returns:
        About 1 for a model and what was fine-tuned from it, about 0 for models trained apart; 0 if
        the widths differ.
    """
    if suspect.shape[1] != base.shape[1]:
        return 0.0
    rows = min(len(suspect), len(base))
    own, its = (table[:rows].double().flatten() for table in (suspect, base))
    return float(cosine_similarity(own, its, dim=0))


def base_on_card(folder: Path, embeddings: Tensor) -> tuple[str | None, str | None]:
    """The base that the card of a suspect names, if it is here and the weights agree.

    Args:
        folder: The suspect's folder, or that of the base that its adapter stands on.
        embeddings: The suspect's token embeddings, (V, d).

    Returns:
        What `resolve` takes, or None; and a sentence for the user, or None without a card
        that names one.
    """
    name = _base_of(folder)
    if name is None:
        return None, None
    said = f"The card of {folder.name} says that it was made from {name}"
    found = _local(name)
    if found is None:
        return None, f"{said}, which is not on this machine; naming its folder helps the search."
    try:
        cosine = agreement(embeddings, load_embeddings(found))
    except W2SError as problem:
        return None, f"{said}. It is not used: {problem}"
    if cosine < AGREE:
        return None, f"{said}, but their embeddings are unrelated (cosine {cosine:.2f}): not used."
    return found, f"{said}, and the weights agree (cosine {cosine:.3f}): the search begins with it."


def template_of_another(student: StudentConfig) -> tuple[str, ...]:
    """A note if the chat template is not that of the base that the card names.

    The base is looked at only where it is on this machine. A base without a template is no
    reason for a note: models are given one when they are taught to chat.
    """
    suspect = resolve(student.model, student.base).whole
    name = _base_of(suspect.folder)
    found = _local(name) if name is not None else None
    if name is None or found is None:
        return ()
    try:
        own, its = (
            open_tokenizer(model.folder, model.spec).chat_template
            for model in (suspect, resolve(found).whole)
        )
    except W2SError:
        return ()
    if own is None or its is None or own == its:
        return ()
    return (f"the chat template is not that of {name}, which the card names as the base",)


def _local(name: str) -> str | None:
    """Where a model that a card names lies on this machine; None if it would have to be fetched."""
    name = _EMBEDDED_AS.get(name, name)
    if name in EMBEDDED or Path(name).is_dir():
        return name
    try:
        return snapshot_download(name, local_files_only=True, allow_patterns=list(SAFE_DOWNLOADS))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _base_of(folder: Path) -> str | None:
    """The base that the card in a folder names; None without a card, or if it names none."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    try:
        named = ModelCard.load(card).data.get("base_model")
    except (ValueError, OSError, yaml.YAMLError):
        return None
    first = named[0] if isinstance(named, list) and named else named
    # It is shown to be copied: a hub id, and nothing that a shell would take apart.
    return first if isinstance(first, str) and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", first) else None


def _tokens(model: Checkpoint) -> dict[int, str]:
    vocabulary = open_tokenizer(model.folder, model.spec).get_vocab()
    return {place: token for token, place in vocabulary.items()}


def _other(student: StudentConfig, name: str, why: str) -> ModelError:
    return ModelError(
        f"{student.model} was not fine-tuned from {name}: {why}.",
        "Name the very model that the suspect was fine-tuned from, or none.",
    )
