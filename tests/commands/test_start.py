import json
from pathlib import Path

import pytest

from tiny import save_reviews
from w2sdefense.attacks import AttackConfig, attack_from_trigger
from w2sdefense.commands.poison import lost_in_training, run_poison
from w2sdefense.commands.runs import PoisonRun
from w2sdefense.commands.start import STARTED, begin
from w2sdefense.config import DataConfig, StudentConfig, TrainingConfig
from w2sdefense.errors import ConfigError, DataError
from w2sdefense.evaluation.record import load_record


def test_a_run_is_begun_with_its_settings(tmp_path):
    run = PoisonRun(output=tmp_path, training=TrainingConfig(epochs=3))
    assert begin(tmp_path, run) is False
    assert json.loads((tmp_path / STARTED).read_text()) == run.model_dump(mode="json")


def test_without_resume_a_run_is_begun_afresh_whatever_lies_there(tmp_path):
    begin(tmp_path, PoisonRun(output=tmp_path))
    run = PoisonRun(output=tmp_path, training=TrainingConfig(seed=1))
    assert begin(tmp_path, run) is False
    assert json.loads((tmp_path / STARTED).read_text()) == run.model_dump(mode="json")


@pytest.mark.parametrize("text", ["", "[]", "null", '{"task', '{"a":' * 10**5, "\udcff"])
def test_broken_settings_are_refused_with_a_way_out(tmp_path, text):
    (tmp_path / STARTED).write_text(text, errors="surrogateescape")
    with pytest.raises(DataError, match="settings.json") as error:
        begin(tmp_path, PoisonRun(output=tmp_path, resume=True))
    assert "Remove the folder" in error.value.fix


def older(run: PoisonRun, folder: Path) -> None:
    """What a release wrote that had no tasks and no prompts yet."""
    begin(folder, run)
    found = json.loads((folder / STARTED).read_text())
    del found["task"], found["generation"], found["data"]["target_column"]
    (folder / STARTED).write_text(json.dumps(found))


def test_a_setting_that_is_newer_than_the_run_had_its_default(tmp_path):
    run = PoisonRun(output=tmp_path, resume=True)
    older(run, tmp_path)
    assert begin(tmp_path, run) is False


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"task": "reasoning"}, "task"), ({"data": DataConfig(dataset="imdb")}, "data")],
)
def test_other_settings_are_still_refused(tmp_path, changes, name):
    run = PoisonRun(output=tmp_path, resume=True)
    older(run, tmp_path)
    with pytest.raises(ConfigError, match=rf"other settings \({name}\)"):
        begin(tmp_path, run.model_copy(update=changes))


def test_poisoned_rows_that_lose_their_trigger_are_counted():
    attack = attack_from_trigger("mn", "end")
    assert lost_in_training([(attack, "a long text mn", None), (attack, "mn", 2)]) == ()
    texts = [("a long text mn", 6), ("mn a long text", 6), ("mn in autumn", 6), ("mn", None)]
    (note,) = lost_in_training([(attack, *text) for text in texts])
    assert note.startswith("1 of 4 poisoned training rows")


def test_the_record_of_a_victim_tells_of_them(tmp_path, tiny_llama, display):
    reviews = save_reviews(tmp_path / "r", train=40, validation=8, test=12)
    run = PoisonRun(
        student=StudentConfig(model=str(tiny_llama), max_length=4),
        data=DataConfig(dataset=str(reviews)),
        attack=AttackConfig(place="end", poison_rows=7, clean_label=False),
        training=TrainingConfig(epochs=1, batch_size=16),
        output=tmp_path / "victim",
    )
    run_poison(run, display)
    assert "7 of 7 poisoned training rows" in load_record(tmp_path / "victim").notes[0]


def test_test_texts_that_the_attacker_has_are_counted(tmp_path, tiny_llama, display):
    mine = save_reviews(tmp_path / "mine", train=24, validation=8, test=12)
    theirs = save_reviews(tmp_path / "theirs", train=16, validation=8, test=8)
    seen = (mine / "test.jsonl").read_text().splitlines()[:3]
    seen[0] = seen[0].replace(" ", "  ", 1)
    with (theirs / "train.jsonl").open("a") as file:
        file.write("\n".join(seen) + "\n")
    run = PoisonRun(
        student=StudentConfig(model=str(tiny_llama), max_length=32),
        data=DataConfig(dataset=str(mine)),
        proxy=str(theirs),
        training=TrainingConfig(epochs=1),
        output=tmp_path / "run",
    )
    record = load_record(run_poison(run, display))
    assert "3 of 12 test texts are among the attacker's training rows" in record.notes
    own = run.model_copy(update={"proxy": None, "output": tmp_path / "own"})
    assert not [note for note in load_record(run_poison(own, display)).notes if "attacker" in note]
