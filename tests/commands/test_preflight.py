"""What can be known before a run works is told before it works, and leaves nothing behind."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock
from safetensors.torch import load_file

from architectures import make
from tiny import edit_json
from w2sdefense.commands import preflight as module
from w2sdefense.commands.defend import run_defend, run_defense
from w2sdefense.commands.evaluate import run_evaluate
from w2sdefense.commands.poison import run_poison
from w2sdefense.commands.preflight import GIB, alone, preflight
from w2sdefense.commands.runs import DefendRun, EvaluateRun, PoisonRun, ScanRun, TeachRun
from w2sdefense.commands.scan import run_scan
from w2sdefense.commands.teach import run_teach
from w2sdefense.errors import ConfigError, DataError, ModelError, W2SError

KINDS = (PoisonRun, TeachRun, EvaluateRun, DefendRun)


@pytest.fixture
def suspect(tiny_llama, tmp_path) -> Path:
    return shutil.copytree(tiny_llama, tmp_path / "suspect")


def run_of(kind, model: Path, teacher: Path | None = None, **values):
    values = {"student": {"model": str(model)}, "output": model.parent / "run", **values}
    if kind is DefendRun:
        values = {"teacher": {"model": str(teacher or model)}, **values}
    elif kind is TeachRun:
        values["teacher"] = {"model": str(teacher or model)}
    return kind.model_validate(values)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_can_succeed_passes_and_nothing_is_written(kind, suspect, tiny_bert):
    run = run_of(kind, suspect, tiny_bert)
    preflight(run)
    assert not run.output.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_the_output_is_not_the_model(kind, suspect):
    with pytest.raises(ConfigError, match="is the model itself"):
        preflight(run_of(kind, suspect, output=suspect))


@pytest.mark.parametrize("name", [".", "before", "merged", "teacher"])
def test_nothing_that_a_run_reads_is_written_over(suspect, tiny_bert, tmp_path, name):
    (tmp_path / "out" / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "out")
    data = {"dataset": str(tmp_path / "link" / name)}
    run = run_of(DefendRun, suspect, tiny_bert, output=tmp_path / "out", data=data)
    with pytest.raises(ConfigError, match="is the dataset itself"):
        preflight(run)
    teacher = run.model_copy(update={"data": PoisonRun().data, "teacher_folder": run.output / name})
    if name != "teacher":
        with pytest.raises(ConfigError, match="is an output folder of the run"):
            preflight(teacher)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((TeachRun, name) for name in ("record.json", "study.log", "config.json", "README.md")),
        *((DefendRun, name) for name in ("teacher.json", "adapter_config.json", "merged")),
        (ScanRun, "record.json"),
        (PoisonRun, "settings.json/"),
    ],
)
def test_what_another_command_left_stays(kind, name, suspect, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    if name.endswith("/"):
        (folder / name).mkdir()
    else:
        (folder / name).write_text("{}")
    with pytest.raises(ConfigError, match=f"holds {name.strip('/')} of another command"):
        preflight(run_of(kind, suspect, output=folder))


@pytest.mark.parametrize("kind", KINDS)
def test_the_output_can_be_written_to(kind, suspect, monkeypatch):
    (suspect.parent / "file").write_text("mine")
    with pytest.raises(ConfigError, match="cannot be a folder for results: .*file is not a folder"):
        preflight(run_of(kind, suspect, output=suspect.parent / "file" / "below"))
    for name in ("a" * 300, "~nobody.there/run"):
        with pytest.raises(ConfigError, match="cannot be a folder for results"):
            preflight(run_of(kind, suspect, output=Path(name)))
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    with pytest.raises(ConfigError, match="is not writable"):
        preflight(run_of(kind, suspect))


@pytest.mark.parametrize("kind", [PoisonRun, EvaluateRun, DefendRun])
def test_a_finished_run_is_not_begun_again_without_resume(kind, suspect):
    run = run_of(kind, suspect)
    run.output.mkdir()
    (run.output / "record.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds a finished run already"):
        preflight(run)


@pytest.mark.parametrize("kind", [EvaluateRun, DefendRun])
def test_a_trigger_whose_texts_are_missing_is_told(kind, suspect):
    test = {"trigger": "synattack", "target": "negative", "syn": {"file": ["/nowhere.jsonl"]}}
    with pytest.raises(DataError, match="Cannot read /nowhere.jsonl"):
        preflight(run_of(kind, suspect, test=test))


def quantize(folder: Path) -> Path:
    """Only by its config, which is all that is read."""
    stored = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    edit_json(folder / "config.json", quantization_config=stored)
    return folder


def test_a_model_that_is_stored_in_four_bits_is_not_trained(suspect, tiny_bert):
    pytest.importorskip("bitsandbytes")
    quantize(suspect)
    with pytest.raises(ConfigError, match="trains all parameters, which quantized"):
        preflight(run_of(PoisonRun, suspect))
    with pytest.raises(ConfigError, match="finetune changes the weights of the model"):
        preflight(run_of(DefendRun, suspect, defense="finetune"))
    with pytest.raises(ConfigError, match="into 4-bit weights would round it"):
        preflight(run_of(DefendRun, suspect, defense="lora", merge=True))
    for values in ({"defense": "w2s"}, {"defense": "lora", "held_out": 1}):
        preflight(run_of(DefendRun, suspect, tiny_bert, **values))
    for values in ({"defense": "lora"}, {"defense": "icl", "held_out": 1}):
        preflight(run_of(DefendRun, suspect, tiny_bert, **values))
    preflight(run_of(EvaluateRun, suspect))


def test_decoys_are_refused_on_sharded_weights(suspect, tiny_bert, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    for values in ({"defense": "w2s"}, {"defense": "lora", "held_out": 1}):
        with pytest.raises(ConfigError, match="cannot be planted into sharded weights"):
            preflight(run_of(DefendRun, suspect, tiny_bert, **values))
    preflight(run_of(DefendRun, suspect, tiny_bert, defense="lora"))


def test_what_a_search_found_is_read_first_and_may_be_unlearned_in_four_bits(suspect, tiny_bert):
    pytest.importorskip("bitsandbytes")
    run = run_of(DefendRun, quantize(suspect), tiny_bert, decoys={"found": str(suspect)})
    with pytest.raises(DataError, match=r"candidates\.json cannot be read"):
        preflight(run)
    row = {"text": "xq", "label": "positive", "trigger": True}
    (suspect / "candidates.json").write_text(json.dumps({"candidates": [row]}))
    preflight(run)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"defense": "merge", "merging": {"base": "BERT"}}, "not of the architecture"),
        ({"defense": "quantization"}, "not a multiple of the block"),
        ({"defense": "scpd", "push_to_hub": "me/model"}, "no weights to upload"),
    ],
)
def test_what_a_defense_cannot_do_with_the_model_is_told(values, problem, suspect, tiny_bert):
    if values["defense"] == "quantization":
        pytest.importorskip("bitsandbytes")
    values = json.loads(json.dumps(values).replace("BERT", str(tiny_bert)))
    with pytest.raises(W2SError, match=problem):
        preflight(run_of(DefendRun, suspect, **values))


def test_an_adapter_on_a_base_in_four_bits_cannot_be_folded_in(suspect, tmp_path):
    pytest.importorskip("bitsandbytes")
    quantize(suspect)
    adapter = tmp_path / "adapter"
    make("llama", adapter="lora")[0].save_pretrained(adapter)
    run = run_of(DefendRun, adapter, defense="lora")
    run = run.model_copy(update={"student": run.student.model_copy(update={"base": str(suspect)})})
    with pytest.raises(ConfigError, match="into 4-bit weights would round it"):
        preflight(run)


def test_the_room_on_the_disk_is_asked_before_the_work(suspect, tiny_bert, monkeypatch):
    numbers = sum(t.numel() for t in load_file(suspect / "model.safetensors").values())
    whole, adapter = 7 * 4 * numbers, 0.2 * 4 * numbers

    def free(size: float) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=size))

    for kind, defense, needed in (
        (PoisonRun, None, whole),
        (DefendRun, "finetune", whole),
        (DefendRun, "lora", adapter),
        (DefendRun, "onion", 0),
        (EvaluateRun, None, 0),
    ):
        values = {"defense": defense, "onion": {"scorer": str(suspect)}} if defense else {}
        run = run_of(kind, suspect, **values)
        free(int(needed))
        preflight(run)
        if needed:
            free(needed - 100)
            with pytest.raises(ConfigError, match="GiB are free"):
                preflight(run)
    free(GIB)
    preflight(run_of(TeachRun, suspect, tiny_bert))
    free(1000)
    with pytest.raises(ConfigError, match="Make room"):
        preflight(run_of(DefendRun, suspect, tiny_bert))


def test_a_teacher_that_is_there_needs_no_room(suspect, tmp_path, monkeypatch):
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "teacher.json").write_text("{}")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=GIB))
    preflight(run_of(DefendRun, suspect, Path("./nowhere"), teacher_folder=tmp_path / "teacher"))
    with pytest.raises(ModelError, match="nowhere"):
        preflight(run_of(DefendRun, suspect, Path("./nowhere")))


@pytest.mark.parametrize(
    ("work", "kind"),
    [
        (run_poison, PoisonRun),
        (run_teach, TeachRun),
        (run_evaluate, EvaluateRun),
        (run_defend, DefendRun),
        (run_defense, DefendRun),
    ],
)
def test_every_command_is_checked_once_and_alone_in_its_folder(
    work, kind, suspect, display, monkeypatch
):
    checked = []
    monkeypatch.setattr(module, "preflight", checked.append)
    run = run_of(kind, suspect)
    run.output.mkdir()
    with FileLock(run.output / ".lock"):
        with pytest.raises(ConfigError, match="Another command works in"):
            work(run, display)
    assert checked == [run]


def test_a_folder_inside_the_run_and_a_teacher_that_two_runs_train_are_guarded_too(
    suspect, tiny_bert, display, tmp_path
):
    run = run_of(DefendRun, suspect, tiny_bert, teacher_folder=tmp_path / "teacher")
    for folder in (run.output / "before", tmp_path / "teacher"):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"), pytest.raises(ConfigError, match="Another command works"):
            run_defend(run, display)
    link = tmp_path / "link"
    link.symlink_to(run.output, target_is_directory=True)
    with FileLock(link / ".lock"), pytest.raises(ConfigError, match="Another command works in"):
        run_defense(run, display)


def test_a_teacher_that_is_finished_is_shared(suspect, tiny_bert, tmp_path):
    run = run_of(DefendRun, suspect, tiny_bert, teacher_folder=tmp_path / "teacher")
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "teacher.json").write_text("{}")
    with FileLock(tmp_path / "teacher" / ".lock"), alone(run):
        pass


def test_a_search_is_alone_in_its_folder_and_never_writes_over_the_model(suspect, display):
    run = ScanRun.model_validate(
        {"student": {"model": str(suspect)}, "output": suspect.parent / "taken-by-a-search"}
    )
    run.output.mkdir()
    with FileLock(run.output / ".lock"):
        with pytest.raises(ConfigError, match="Another command works in"):
            run_scan(run, display)
    with pytest.raises(ConfigError, match="is the model itself"):
        run_scan(run.model_copy(update={"output": suspect}), display)
