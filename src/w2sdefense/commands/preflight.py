"""Checks a run before any work.

The checks use the settings and the configs of models. They read no data, and no weights except
token embeddings, if a scan names the base of its suspect. Checks that need data (is the target a
label, can any test text carry the trigger?) follow when these are loaded, also before any training.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from w2sdefense.attacks import make_attack
from w2sdefense.cli.display import Display
from w2sdefense.commands.runs import (
    DefendRun,
    EvaluateRun,
    PoisonRun,
    ScanRun,
    TeachRun,
    TuneRun,
    teacher_folder_of,
)
from w2sdefense.commands.start import STARTED
from w2sdefense.config import Settings, named_files
from w2sdefense.data import CATALOG
from w2sdefense.defenses import DEFENSES, Defense, Leaves, Need
from w2sdefense.distill.sharding import refuse_prompt_encoder, refuse_sharding, sharded
from w2sdefense.distill.teacher import TEACHER
from w2sdefense.errors import ConfigError, reading
from w2sdefense.evaluation.record import MERGED, RECORD
from w2sdefense.io import nearest, only_process_in
from w2sdefense.models.adapters import check_adapter
from w2sdefense.models.checkpoint import ADAPTER_CONFIG, Checkpoint, resolve, resolve_whole
from w2sdefense.models.embedded import EMBEDDED
from w2sdefense.models.load import require_causal_lm
from w2sdefense.models.weights import count_weights, require_bitsandbytes
from w2sdefense.scan.origin import check_origin
from w2sdefense.tasks import TASKS
from w2sdefense.training.trainer import check_tracker
from w2sdefense.tuning import JOURNAL

AnyRun = PoisonRun | TeachRun | EvaluateRun | DefendRun | ScanRun
Run = TypeVar("Run", PoisonRun, TeachRun, EvaluateRun, DefendRun, ScanRun)
R = TypeVar("R")

FULL_TRAINING = 7
"""Size of what full training writes, in copies of the weights: two checkpoints (each with AdamW's
two moments), and the model."""

ADAPTER_SHARE = 0.2
"""The same for an adapter, as a share of the model; a generous estimate, as ranks are usually
lower."""

GIB = 2**30


def stage(work: Callable[[Run, Display], R]) -> Callable[[Run, Display], R]:
    """Decorate the work of a command: check it first, and lock its folders while it runs."""

    @functools.wraps(work)
    def checked(run: Run, display: Display) -> R:
        preflight(run)
        with alone(run):
            return work(run, display)

    return checked


@contextmanager
def alone(run: AnyRun | TuneRun) -> Iterator[None]:
    """Lock the folders that a run writes to against other commands.

    A finished teacher is only read, so several runs can share it.
    """
    with ExitStack() as stack:
        for folder in _written_to(run):
            stack.enter_context(only_process_in(folder))
        yield


def _written_to(run: AnyRun | TuneRun) -> dict[Path, str | None]:
    """The folders that a run writes to, with the file that marks each one as finished."""
    folders: dict[Path, str | None] = {run.output: None if isinstance(run, ScanRun) else RECORD}
    if isinstance(run, TeachRun | TuneRun):
        folders[run.output] = TEACHER if isinstance(run, TeachRun) else JOURNAL
    if isinstance(run, ScanRun | TuneRun | DefendRun):
        teacher = teacher_folder_of(run)
        needed = not isinstance(run, DefendRun) or Need.TEACHER in DEFENSES[run.defense].needs
        if needed and not (teacher / TEACHER).is_file():
            folders[teacher] = TEACHER
    return folders


def preflight(run: AnyRun) -> None:
    """Raise a `W2SError` with a fix, before any work, if a run cannot succeed."""
    check_folders(run)
    leaves_record = isinstance(run, PoisonRun | EvaluateRun | DefendRun)
    if leaves_record and not run.resume and (run.output / RECORD).is_file():
        raise ConfigError(
            f"{run.output} holds a finished run already.",
            "Add --resume to use it, choose another --output, or remove the folder.",
        )
    if isinstance(run, PoisonRun):
        _check_poisoning(run)
    elif isinstance(run, TeachRun):
        refuse_sharding("teach")
        _check_writing_teacher(run, run.alignment)
    elif isinstance(run, ScanRun):
        check_origin(run.student, run.scan)
        _check_teacher(run)
    else:
        if run.test.trigger is not None:
            make_attack(run.test)
        if isinstance(run, DefendRun):
            _check_defense(run)
    _check_room(run)


def check_folders(run: AnyRun | TuneRun) -> None:
    """Check that the folders of a run can be written to and hold nothing of other commands."""
    problem = f"{run.output} cannot be a folder for results"
    own = (run.output / "before", run.output / MERGED)
    # A path may be too long, or name an unknown user.
    with reading(ConfigError, problem, "Choose another folder."):
        folders = _written_to(run)
        refuse_inputs(run, *folders, *own)
        if isinstance(run, ScanRun | TuneRun | DefendRun):
            teacher = teacher_folder_of(run)
            if _is_in(teacher, run.output, *own):
                raise ConfigError(
                    f"{teacher} is an output folder of the run.", "Choose another --teacher-folder."
                )
        for folder, mark in folders.items():
            _check_folder(folder, mark)


def refuse_inputs(run: Settings, *folders: Path) -> None:
    """Refuse to overwrite what a run reads: a model, an adapter, a folder of data."""
    for setting, name in named_files(run):
        if name not in CATALOG and name not in EMBEDDED and _is_in(name, *folders):
            raise ConfigError(
                f"The output {name} is the {setting} itself, which would be overwritten.",
                "Choose another --output.",
            )


def _is_in(path: str | Path, *folders: Path) -> bool:
    return Path(os.path.expanduser(path)).resolve() in [folder.resolve() for folder in folders]


def _check_poisoning(run: PoisonRun) -> None:
    """Check a poisoning, which trains all parameters of the model."""
    refuse_sharding("poison")
    check_tracker(run.training)
    make_attack(run.attack)
    student = resolve(run.student.model, run.student.base)
    if run.student.load_in_4bit or _is_quantized(student):
        raise ConfigError(
            "Poisoning trains all parameters, which quantized weights do not allow.",
            "Omit --load-in-4bit, and name a model in full precision.",
        )
    if run.student.dtype == "float16":
        raise _float16_trained("Poisoning trains all parameters")
    student.require_foldable()
    asked = run.attack.clean_label and "clean_label" in run.attack.model_fields_set
    if asked and _writes(run):
        raise ConfigError(
            f"Clean-label poisoning needs classes, which {run.task} does not have: the target "
            "replaces the answer of every row with the trigger.",
            "Omit --clean-label.",
        )


def _check_defense(run: DefendRun) -> None:
    """Check a defense, its model, its adapter and its teacher."""
    kind = DEFENSES[run.defense]
    if run.defense not in ("w2s", "lora"):
        refuse_sharding(f"--defense {run.defense}")
    if run.student.base is not None:
        refuse_sharding("--base")
    check_tracker(run.training)
    if run.merge and kind.leaves is not Leaves.ADAPTER:
        raise ConfigError(
            f"--merge needs an adapter, but {run.defense} leaves {kind.leaves}.",
            "Omit --merge.",
        )
    if run.push_to_hub and kind.leaves is Leaves.NOTHING:
        raise ConfigError(f"{run.defense} leaves no weights to upload.", "Omit --push-to-hub.")
    if _writes(run) and kind.needs_labels:
        able = [name for name, other in DEFENSES.items() if not other.needs_labels]
        raise ConfigError(
            f"The defense {run.defense} does not work for {run.task}.",
            f"Use --defense {' or '.join(able)}.",
        )
    defense = kind.of(run)
    defense.check()
    _check_weights(run, defense)
    if Need.TEACHER in defense.needs:
        _check_writing_teacher(run, run.distill.alignment)
        _check_teacher(run)


def _check_weights(run: DefendRun, defense: Defense) -> None:
    """Check that the model's weights allow what the defense does with them.

    Virtual tokens cannot be merged into weights; 4-bit weights can be neither trained nor changed;
    gradients of float16 weights cannot be unscaled.
    """
    # Adapters always have float32 weights; only classifiers have a head that is trained as well.
    if run.student.dtype == "float16" and defense.trains() and not _writes(run):
        raise _float16_trained(
            f"{run.defense} trains weights of the model itself (at least its head)"
        )
    student = resolve(run.student.model, run.student.base)
    quantized = run.student.load_in_4bit or _is_quantized(student)
    changes = defense.leaves is not Leaves.NOTHING or defense.trains()
    folds = run.student.base is not None and changes
    if folds:
        student.require_foldable()
    _check_planting(run)
    if quantized:
        _check_quantized(run, defense, folds=folds)
    defense.check_model(student, writes=_writes(run))
    if run.adapter.has_virtual_tokens:
        refuse_prompt_encoder(run.adapter)
        if defense.leaves is Leaves.ADAPTER:
            _check_virtual_tokens(run, folds=folds)
    if defense.leaves is Leaves.ADAPTER:
        merge = run.merge or folds
        check_adapter(student.whole, run.adapter, writes=_writes(run), merge=merge)


def _check_quantized(run: DefendRun, defense: Defense, *, folds: bool) -> None:
    require_bitsandbytes()
    if defense.leaves is Leaves.MODEL:
        raise ConfigError(
            f"{run.defense} changes the weights of the model, which is impossible in 4 bits.",
            "Name a model in full precision and omit --load-in-4bit, or use a defense that trains "
            "an adapter (w2s, lora).",
        )
    if run.merge or folds:
        raise ConfigError(
            "Merging an adapter into 4-bit weights would round it.",
            "Omit --merge and merge the adapter into the base in full precision, or omit "
            "--load-in-4bit.",
        )


def _check_virtual_tokens(run: DefendRun, *, folds: bool) -> None:
    name = run.adapter.adapter
    if run.merge:
        raise ConfigError(
            f"The virtual tokens of {name} cannot be merged into weights.",
            "Omit --merge, or use --adapter lora.",
        )
    if folds:
        raise ConfigError(
            f"{run.student.model} is an adapter, which is merged first. The virtual tokens of "
            f"{name} would need the merged model, which is not saved.",
            "Name a merged model (w2s defend --merge writes one), or use --adapter lora.",
        )


def _check_teacher(run: DefendRun | ScanRun) -> None:
    """Check the model of a teacher that must still be trained."""
    if not (teacher_folder_of(run) / TEACHER).is_file():
        refuse_sharding("The training of a teacher")
        resolve_whole(run.teacher.model, "Name a whole model as the teacher.")


def _check_writing_teacher(run: TeachRun | DefendRun, alignment: str) -> None:
    if not _writes(run):
        return
    require_causal_lm(run.teacher.model)
    if alignment == "release":
        raise ConfigError("--alignment release is for classifiers only.", "Omit --alignment.")


def _float16_trained(what: str) -> ConfigError:
    return ConfigError(
        f"{what}, which cannot be done in float16.", "Use --dtype bfloat16 or float32."
    )


def _is_quantized(checkpoint: Checkpoint) -> bool:
    """Whether the weights of a suspect, or of the base of an adapter, are stored quantized."""
    return bool(checkpoint.whole.values.get("quantization_config"))


def _writes(run: PoisonRun | TeachRun | DefendRun) -> bool:
    """Whether answers are texts."""
    return TASKS[run.task].text_answers


def _check_folder(folder: Path, mark: str | None) -> None:
    """Check that a folder can be created and written to, without creating it.

    Existing results must be of the same command, whose finished folders contain `mark`.
    """
    place = nearest(folder)
    if not (place.is_dir() and os.access(place, os.W_OK)):
        why = "not writable" if place.is_dir() else "not a folder"
        raise ConfigError(
            f"{folder} cannot be a folder for results: {place} is {why}.", "Choose another folder."
        )
    begun = (folder / STARTED).is_file()
    foreign = {*_FINISHED, *(() if begun else _OF_A_MODEL)} - {mark}
    for path in folder.glob("*"):
        if path.name in foreign or (path.is_dir() and path.suffix in _SUFFIXES):
            raise ConfigError(
                f"{folder} holds {path.name} of another command.", "Choose another folder."
            )


_FINISHED = (RECORD, TEACHER, JOURNAL)
_OF_A_MODEL = ("config.json", ADAPTER_CONFIG, MERGED, "README.md", "report.html")
"""Files that a run would overwrite in a folder in which it did not begin."""
_SUFFIXES = (".json", ".parquet", ".safetensors", ".html", ".md")


def _check_room(run: AnyRun) -> None:
    """Check that the estimated size of the results fits on the disk."""
    needed = int(sum(_written(run)))
    free = shutil.disk_usage(nearest(run.output)).free
    if needed > free:
        raise ConfigError(
            f"{run.output} needs about {needed / GIB:.1f} GiB for checkpoints and results, and "
            f"{free / GIB:.1f} GiB are free.",
            "Make room, or choose an --output on another disk.",
        )


def _written(run: AnyRun) -> Iterator[float]:
    """Rough upper bounds of the bytes that each part of a run writes."""
    defense = DEFENSES[run.defense] if isinstance(run, DefendRun) else None
    if isinstance(run, TeachRun | ScanRun | DefendRun):
        folder = run.output if isinstance(run, TeachRun) else teacher_folder_of(run)
        needed = defense is None or Need.TEACHER in defense.needs
        if needed and not (folder / TEACHER).is_file():
            yield FULL_TRAINING * _weights(run.teacher.model, 4)
    size = 4 if run.student.dtype == "float32" else 2
    if isinstance(run, PoisonRun) or (defense and defense.leaves is Leaves.MODEL):
        yield FULL_TRAINING * _weights(run.student.model, size)
    elif isinstance(run, DefendRun) and defense and defense.leaves is Leaves.ADAPTER:
        model = run.student.base or run.student.model
        merged = run.merge or run.student.base is not None
        yield (ADAPTER_SHARE + merged) * _weights(model, size)


def _weights(spec: str, size: int) -> int:
    """Size of a model's weights, with `size` bytes each."""
    return count_weights(resolve(spec).folder) * size


def _check_planting(run: DefendRun) -> None:
    """Refuse decoys on sharded weights, whose layers do not run in one process."""
    if not sharded():
        return
    problem = "Decoys cannot be planted into sharded weights (FSDP, DeepSpeed)."
    if run.defense == "w2s" and run.decoys.plants:
        raise ConfigError(
            problem, "Use --decoys-per-label 0, or --set decoys.plant=false to insert them only."
        )
    if run.held_out and DEFENSES[run.defense].leaves is Leaves.ADAPTER:
        raise ConfigError(problem, "Omit --held-out.")
