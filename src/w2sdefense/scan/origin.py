"""Whether a suspect can be fine-tuned from the model that is named for it; no weights are opened.

Another model of the same family and size passes: its weights would have to be compared.
"""

from __future__ import annotations

from pathlib import Path

from w2sdefense.config import ScanConfig, StudentConfig
from w2sdefense.errors import ModelError
from w2sdefense.models.load import feature_width
from w2sdefense.models.locate import resolve_model, resolve_whole_model
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
    folder = resolve_whole_model(name, "Name the whole model that it stands on.")
    width, suspect = feature_width(name), feature_width(student.model, student.base)
    if width != suspect:
        raise _other(student, name, f"it is {width} wide, and the suspect {suspect}")
    # An adapter is read with the tokenizer of its base.
    read_by = student.base or student.model
    own, its = _tokens(resolve_model(read_by), read_by), _tokens(folder, name)
    shared = own.keys() & its.keys()
    # Not all of them: who fine-tunes a model may give its unused tokens a meaning.
    if 2 * sum(own[place] == its[place] for place in shared) < len(shared):
        raise _other(student, name, "the two have other tokens")


def _tokens(folder: Path, spec: str) -> dict[int, str]:
    return {place: token for token, place in open_tokenizer(folder, spec).get_vocab().items()}


def _other(student: StudentConfig, name: str, why: str) -> ModelError:
    return ModelError(
        f"{student.model} was not fine-tuned from {name}: {why}.",
        "Name the very model that the suspect was fine-tuned from, or none.",
    )
