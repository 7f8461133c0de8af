"""Finds the base that a suspect was fine-tuned from, and the tokens that this training affected.

A model card is written by whoever made the suspect and cannot be trusted. The base that it names is
used only if it is already on this machine and the token embeddings of both models agree; nothing is
downloaded. Independently trained models have unrelated embeddings, and fine-tuning hardly changes
their direction.

An attacker who trains all parameters also trains the embeddings of the trigger's tokens. These move
consistently in one direction, while the updates of ordinary words partly cancel out
(`embedding_drift`). An adapter changes no embeddings, but its update of the first layer responds
more strongly to some tokens than to others (`weight_response`). Neither is proof; both only tell a
search where to begin. Not covered: triggers made of words that are common in the training text, and
updates of later layers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from transformers.pytorch_utils import Conv1D

from w2sdefense.config import ScanConfig, StudentConfig
from w2sdefense.errors import ModelError, W2SError
from w2sdefense.io import readable
from w2sdefense.models.checkpoint import SAFE_DOWNLOADS, Checkpoint, resolve, resolve_whole
from w2sdefense.models.embedded import EMBEDDED
from w2sdefense.models.features import backbone_of
from w2sdefense.models.load import load_embeddings, load_weights
from w2sdefense.models.tokenizer import open_tokenizer

AGREE = 0.5
"""Two models count as related if the cosine of their embedding tables is at least this. Unrelated
models have about 0; the fine-tuned models that were measured have above 0.99."""

_EMBEDDED_AS = {wheel.hub_id: name for name, wheel in EMBEDDED.items()}
"""Hub id -> embedded name of the same model."""

_STILL = 4.0
"""A token counts as moved if its distance exceeds this many times the median: weight decay moves
all tokens a little."""

_SPREADS = 6.0  # a response is an outlier this many median absolute deviations above the median

_OUTPUTS = ("o_proj", "out_proj", "c_proj", "output")
"""Name parts of the matrices of a layer that do not read the layer's input."""

_CHUNK = 8192  # tokens in one matrix product


def check_origin(student: StudentConfig, scan: ScanConfig) -> None:
    """Check the base that the user names, before a teacher is trained for the search.

    Raises:
        ModelError: The base is missing, is an adapter, has another width or vocabulary, or has
            embeddings that are unrelated to the suspect's.
        UnsafeCheckpointError: The base is a pickle, or needs remote code.
    """
    name = scan.fine_tuned_from
    if name is None:
        return
    origin = resolve_whole(name, "Name the whole model that it stands on.")
    # An adapter uses the tokenizer and the embeddings of its base.
    suspect = resolve(student.model, student.base).whole
    if origin.width != suspect.width:
        raise _other(student, name, f"it is {origin.width} wide, and the suspect {suspect.width}")
    own, its = _tokens(suspect), _tokens(origin)
    shared = own.keys() & its.keys()
    # A majority is enough: fine-tuning may assign a meaning to unused tokens.
    if 2 * sum(own[place] == its[place] for place in shared) < len(shared):
        raise _other(student, name, "the two have other tokens")
    cosine = agreement(load_embeddings(suspect), load_embeddings(origin))
    if cosine < AGREE:
        raise _other(student, name, f"their embeddings are unrelated (cosine {cosine:.2f})")


def agreement(suspect: Tensor, base: Tensor) -> float:
    """Cosine of two tables of token embeddings, (V, d) and (V', d), over the rows they share.

    About 1 for a model and its fine-tuned version, about 0 for independently trained models, and 0
    if the widths differ.
    """
    if suspect.shape[1] != base.shape[1]:
        return 0.0
    rows = min(len(suspect), len(base))
    own, its = (table[:rows].double().flatten() for table in (suspect, base))
    return float(cosine_similarity(own, its, dim=0))


def base_on_card(folder: Path, embeddings: Tensor) -> tuple[str | None, str | None]:
    """The base that the suspect's model card names, if it is available and its weights agree.

    Args:
        folder: The suspect's folder; of an adapter, the folder of its base.
        embeddings: The suspect's token embeddings, (V, d).

    Returns:
        An argument for `resolve`, or None; and a sentence for the user, or None if no card names a
        base.
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


def folder_of(model: Any) -> Path:
    """The folder that a model was opened from; of an adapter, the folder of its base."""
    return Path(model.name_or_path or backbone_of(model).name_or_path)


def template_of_another(folder: Path, template: Any) -> tuple[str, ...]:
    """A note if the chat template differs from that of the base on the card, if it is available.

    A base without a template gives no note: models usually get one when they are trained to chat.
    """
    name = _base_of(folder)
    found = _local(name) if name is not None and template is not None else None
    if found is None:
        return ()
    try:
        its = open_tokenizer(resolve(found).folder, found).chat_template
    except W2SError:
        return ()
    if its is None or its == template:
        return ()
    return (f"the chat template is not that of {name}, which the card names as the base",)


def _local(name: str) -> str | None:
    """Where a model that a card names is on this machine; None if it would need a download."""
    name = _EMBEDDED_AS.get(name, name)
    if name in EMBEDDED or Path(name).is_dir():
        return name
    try:
        return snapshot_download(name, local_files_only=True, allow_patterns=list(SAFE_DOWNLOADS))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _base_of(folder: Path) -> str | None:
    """The base that the model card in a folder names; None without a card or a base."""
    card = folder / "README.md"
    if not card.is_file():  # `ModelCard.load` would look for it on the hub
        return None
    named = readable(lambda: ModelCard.load(card).data.get("base_model"))
    first = named[0] if isinstance(named, list) and named else named
    # Users copy this name into a shell, so it must be a plain hub id without special characters.
    return first if isinstance(first, str) and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", first) else None


def _tokens(model: Checkpoint) -> dict[int, str]:
    vocabulary = open_tokenizer(model.folder, model.spec).get_vocab()
    return {place: token for token, place in vocabulary.items()}


def _other(student: StudentConfig, name: str, why: str) -> ModelError:
    return ModelError(
        f"{student.model} was not fine-tuned from {name}: {why}.",
        "Name the very model that the suspect was fine-tuned from, or none.",
    )


def suspicious_tokens(model: nn.Module, base: str, count: int) -> list[int]:
    """The tokens that fine-tuning affected most, compared with the base, most suspicious first.

    Takes tokens alternately from `embedding_drift` and `weight_response`.
    """
    backbone = backbone_of(model)
    updates = _first_layer(backbone)
    table = backbone.get_input_embeddings().weight.detach().cpu().float()
    names = _name_of(backbone, backbone.get_input_embeddings())
    stored = load_weights(base, [names, *updates])
    rankings = [embedding_drift(table, stored[names], count)]
    updates = {name: update for name, update in updates.items() if name in stored}
    if updates:
        rankings.append(weight_response(stored[names][: len(table)], updates, stored, count))
    in_turn = (token for tokens in zip_longest(*rankings) for token in tokens)
    return list(dict.fromkeys(token for token in in_turn if token is not None))[:count]


def embedding_drift(suspect: Tensor, base: Tensor, count: int) -> list[int]:
    """The tokens whose embeddings moved farthest from those of the base, farthest first.

    Ignores rows that exist in only one of the tables (V, d) and (V', d).

    Raises:
        ModelError: The widths differ.
    """
    if suspect.shape[1] != base.shape[1]:
        raise ModelError(
            f"The base has embeddings of width {base.shape[1]}, the suspect of {suspect.shape[1]}.",
            "Name the very model that the suspect was fine-tuned from, or none.",
        )
    rows = min(len(suspect), len(base))
    moved = (suspect[:rows].double() - base[:rows].double()).norm(dim=-1)
    return _outliers(moved, _STILL * moved.median(), count)


def weight_response(
    base: Tensor, updated: Mapping[str, Tensor], stored: Mapping[str, Tensor], count: int
) -> list[int]:
    """The tokens whose image under the first layer changed most, strongest response first.

        response(t) = (sum_W |(W_s - W_b) x_t|^2 / sum_W |W_b x_t|^2)^(1/2)

    x_t is the token's embedding in the base (V, d), normalized. W runs over the matrices of the
    first layer that read it: W_s of the suspect (`updated`), W_b of the base (`stored`). A token is
    an outlier if its response is more than 6 median absolute deviations above the median.
    """
    responses = []
    for first in range(0, len(base), _CHUNK):
        embeddings = nn.functional.normalize(base[first : first + _CHUNK].float())
        change, size = torch.zeros(len(embeddings)), torch.zeros(len(embeddings))
        for name, acting in updated.items():
            weight = stored[name].float()
            # GPT-2 stores its matrices as (d, out); none of them is square.
            weight = weight if weight.shape == acting.shape else weight.T
            size += (embeddings @ weight.T).square().sum(-1)
            change += (embeddings @ (acting - weight).T).square().sum(-1)
        responses.append((change / size.clamp(min=1e-12)).sqrt())
    values = torch.cat(responses)
    middle = values.median()
    return _outliers(values, middle + _SPREADS * (values - middle).abs().median(), count)


def _first_layer(backbone: Any) -> dict[str, Tensor]:
    """The matrices (out, d) of the first layer that read its input, keyed by their base names."""
    blocks = next((m for m in backbone.modules() if isinstance(m, nn.ModuleList) and len(m)), None)
    if blocks is None:
        return {}
    width = backbone.get_input_embeddings().weight.shape[1]
    prefix = _name_of(backbone, blocks).removesuffix(".weight")
    adapted = [f"{n}." for n, m in blocks[0].named_modules() if isinstance(m, BaseTunerLayer)]
    found = {}
    for name, module in blocks[0].named_modules():
        weight = _acting_weight(module)
        # Modules inside an adapted layer are already included in its acting weight.
        if weight is None or name.startswith(tuple(adapted)):
            continue
        if any(part in name for part in _OUTPUTS):
            continue
        if weight.shape[1] == width:
            found[f"{prefix}.0.{name}.weight"] = weight
    return found


def _plain(module: nn.Module) -> Any:
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


@torch.no_grad()
def _acting_weight(module: nn.Module) -> Tensor | None:
    """The matrix (out, in) of a linear layer plus its adapter; None for other or 4-bit layers."""
    plain = _plain(module)
    if not isinstance(plain, nn.Linear | Conv1D) or not plain.weight.is_floating_point():
        return None
    weight: Tensor = plain.weight.detach().float()
    if isinstance(module, BaseTunerLayer) and hasattr(module, "get_delta_weight"):
        for name in module.active_adapters:
            weight = weight + module.get_delta_weight(name).float()
    return weight.T.cpu() if isinstance(plain, Conv1D) else weight.cpu()


def _name_of(backbone: Any, wanted: nn.Module) -> str:
    name = next(name for name, module in backbone.named_modules() if module is wanted)
    return f"{name}.weight"


def _outliers(values: Tensor, bar: Tensor, count: int) -> list[int]:
    far = values > bar
    order = torch.where(far, values, 0.0).argsort(descending=True, stable=True)
    return order[: min(count, int(far.sum()))].tolist()
