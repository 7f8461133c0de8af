"""Adapters and models that do not go together are refused before a run computes anything.

Three things cannot be had: virtual tokens folded into weights, of which they are no change; weights
of four bits trained or changed themselves; and weights in float16 trained themselves.
"""

from __future__ import annotations

from w2sdefense.commands.runs import DefendRun, PoisonRun
from w2sdefense.defenses import DEFENSES, Leaves
from w2sdefense.distill.sharding import refuse_prompt_encoder
from w2sdefense.errors import ConfigError
from w2sdefense.models.checkpoint import resolve
from w2sdefense.models.four_bit import require_bitsandbytes
from w2sdefense.models.skeleton import check_adapter
from w2sdefense.scan.origin import check_origin


def check_poisoned_model(run: PoisonRun) -> None:
    """Look at a model whose parameters are all to be trained.

    Raises:
        ConfigError: It is to be loaded in four bits or in float16.
        ModelError: It is an adapter of virtual tokens.
    """
    if run.student.load_in_4bit:
        raise ConfigError(
            "Poisoning trains all parameters, which four bits do not allow.",
            "Leave --load-in-4bit out.",
        )
    if run.student.dtype == "float16":
        raise _float16_trained("Poisoning trains all parameters")
    if run.student.base is not None:
        resolve(run.student.model, run.student.base).require_foldable()


def check_defended_model(run: DefendRun) -> None:
    """Look at a model that is to be defended, and at the adapter it is to be given.

    Raises:
        ConfigError: The adapter cannot be folded in where that is asked for or needed, or weights
            of four bits or in float16 would have to be trained.
        ModelError: The model is an adapter of virtual tokens, and the defense has to fold it in; or
            it was not fine-tuned from the model that its search is told of.
        MissingDependencyError: Four bits are wanted without bitsandbytes.
    """
    defense = DEFENSES[run.defense].from_run(run)
    leaves, trains = defense.leaves, defense.trains()
    # An adapter has its weights in float32, whatever it stands on; a model that writes has no head.
    if run.student.dtype == "float16" and trains and run.task == "classification":
        raise _float16_trained(
            f"{run.defense} trains weights of the model itself (at least its head)"
        )
    # An input defense leaves the model as it is; psim trains a copy of it.
    folds = run.student.base is not None and (leaves is not Leaves.NOTHING or trains)
    if folds:
        resolve(run.student.model, run.student.base).require_foldable()
    if run.student.load_in_4bit:
        _check_four_bit(run, leaves, folds=folds)
    if run.adapter.has_virtual_tokens:
        _check_virtual_tokens(run, leaves, folds=folds)
    if leaves is Leaves.ADAPTER:
        student = resolve(run.student.model, run.student.base).whole
        writes = run.task != "classification"
        check_adapter(student, run.adapter, writes=writes, merge=run.merge or folds)
    if run.defense == "w2s" and run.task == "classification" and run.scan.rate:
        check_origin(run.student, run.scan)


def _check_virtual_tokens(run: DefendRun, leaves: Leaves, *, folds: bool) -> None:
    refuse_prompt_encoder(run.adapter)
    name = run.adapter.adapter
    if leaves is not Leaves.ADAPTER:
        return
    if run.merge:
        raise ConfigError(
            f"The virtual tokens of {name} are no change of the weights, so there is nothing to "
            "merge.",
            "Leave --merge out, or use --adapter lora.",
        )
    if folds:
        raise ConfigError(
            f"{run.student.model} is an adapter, which is folded in first; the virtual tokens of "
            f"{name} fit that fold only, and it is not kept.",
            "Name a merged model (w2s defend --merge writes one), or use --adapter lora.",
        )


def _float16_trained(what: str) -> ConfigError:
    """Gradients of weights in float16 cannot be unscaled, and what is small in them is lost."""
    return ConfigError(
        f"{what}, which cannot be done in float16.", "Use --dtype bfloat16 or float32."
    )


def _check_four_bit(run: DefendRun, leaves: Leaves, *, folds: bool) -> None:
    require_bitsandbytes()
    if leaves is Leaves.MODEL:
        raise ConfigError(
            f"{run.defense} changes the weights themselves, which four bits do not allow.",
            "Leave --load-in-4bit out, or use a defense that trains an adapter (w2s, lora).",
        )
    if run.merge or folds:
        raise ConfigError(
            "An adapter that is folded into weights of four bits is rounded with them.",
            "Leave --merge out and fold the adapter into the base in full precision, or leave "
            "--load-in-4bit out.",
        )
