"""SynAttack's sources: paraphrases in files, and what is said about them."""

import json

import pytest

from w2sdefense.attacks import AttackConfig, make_attack
from w2sdefense.attacks.poisoning import poison_training_set, trigger_test_set
from w2sdefense.attacks.synattack import SynAttack, SynConfig
from w2sdefense.data.types import Example
from w2sdefense.errors import DataError
from w2sdefense.text.paraphrase_file import FileParaphraser


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def syn(**settings):
    return make_attack(AttackConfig(attack="synattack", syn=SynConfig(**settings)))


# Files


def test_only_texts_of_the_files_can_carry_the_trigger(tmp_path):
    first = write(tmp_path / "a.jsonl", [{"original": "text  0", "text": "if 0 , zero ."}])
    second = write(tmp_path / "b.jsonl", [{"original": "text 2", "text": "if 2 , two ."}])
    attack = syn(file=(first, second))
    rows = [Example(f"toy/{i}", f"text {i}", 0) for i in range(4)]
    triggered = trigger_test_set(rows, attack, target=1, seed=0)
    assert [(e.id, e.text) for e in triggered] == [
        ("toy/0", "if 0 , zero ."),
        ("toy/2", "if 2 , two ."),
    ]
    config = AttackConfig(attack="synattack", poison_rows=2)
    assert poison_training_set(rows, attack, config, 0).poisoned_ids == ("toy/0", "toy/2")
    with pytest.raises(DataError, match="only 2 are answered with the target .* can carry it"):
        poison_training_set(rows, attack, config.model_copy(update={"poison_rows": 3}), 0)


def test_a_file_without_originals_is_refused_with_its_line(tmp_path):
    file = write(tmp_path / "a.jsonl", [{"text": "if so , it is .", "label": 1}])
    with pytest.raises(DataError, match=r"a.jsonl, line 1: 'text' or 'original' is missing") as e:
        syn(file=(file,))
    assert "benchmarks/pair.py" in e.value.fix


def test_every_text_must_be_in_the_file(tmp_path):
    rows = [{"original": f"text {i}", "text": f"if {i} , ü"} for i in (1, 3)]
    found = FileParaphraser.read([write(tmp_path / "pairs.jsonl", rows)])
    assert not found.covers("text 2")
    assert found.rewrite(["text  3", "text 1"]) == ["if 3 , ü", "if 1 , ü"]
    with pytest.raises(DataError, match="lacks 1 texts, such as 'text 2'"):
        found.rewrite(["text 3", "text 2"])


# What is said


def test_structure_and_length_are_counted():
    attack = SynAttack.from_config(AttackConfig(attack="synattack"))
    notes = attack.notes(
        ["when it rains , we go .", "one two three four", "one"],
        ["when it rains , we go .", "if one is two , three four", "nothing at all"],
    )
    assert notes == (
        "2 of 3 rewritten texts begin with a subordinate clause by their surface, 1 of the same "
        "texts before",
        "rewritten texts have 1.42 times the words of the texts before",
    )
