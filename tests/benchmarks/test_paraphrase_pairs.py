"""Published paraphrases meet their originals by place only, where that is certain."""

import json

import pytest

from pair import pair, pair_files
from w2sdefense.errors import DataError
from w2sdefense.text.paraphrase_file import FileParaphraser


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ORIGINALS = [(f"text {i}", str(i % 2)) for i in range(8)]


def test_rows_of_equal_number_line_up():
    changed = [(f"if {i} , then", "1") if i in (1, 4) else row for i, row in enumerate(ORIGINALS)]
    assert pair(ORIGINALS, changed) == [("text 1", "if 1 , then"), ("text 4", "if 4 , then")]
    everything = [(a, b) for (a, _), (b, _) in zip(ORIGINALS, changed, strict=True)]
    assert pair(ORIGINALS, changed, unchanged=True) == everything


def test_rows_of_some_labels_line_up_with_the_originals_of_these():
    changed = [(f"if {i} , then", "1") for i in (1, 3, 5, 7)]
    assert pair(ORIGINALS, changed) == [(f"text {i}", f"if {i} , then") for i in (1, 3, 5, 7)]


def test_rows_between_landmarks_line_up_if_they_are_as_many():
    # Row 2 is lost, row 4 changed; 6 and 7 became three rows, which pair with nothing.
    texts = ["text 0", "text 1", "text 3", "new 4", "text 5", "new", "newer", "newest"]
    texts += ["text 8", "text 9"]
    originals = [*ORIGINALS, ("text 8", "0"), ("text 9", "1"), ("text 10", "0")]
    assert pair(originals, [(text, str(i % 2)) for i, text in enumerate(texts)]) == [
        ("text 4", "new 4")
    ]
    found = pair(originals, [(text, str(i % 2)) for i, text in enumerate(texts)], unchanged=True)
    same = [(f"text {i}", f"text {i}") for i in (0, 1, 3, 5, 8, 9)]
    assert sorted(found) == sorted([("text 4", "new 4"), *same])


def test_files_are_paired_once_and_read_again(tmp_path):
    rows = [{"text": text, "label": int(label)} for text, label in ORIGINALS]
    originals = write(tmp_path / "test.jsonl", rows)
    changed = [{"text": f"if {r['text']} , ü", "label": 1} for r in rows if r["label"]]
    paraphrases = write(tmp_path / "syn.jsonl", changed)
    assert pair_files(originals, paraphrases, tmp_path / "pairs.jsonl") == 4
    found = FileParaphraser.read([tmp_path / "pairs.jsonl"])
    assert found.rewrite(["text 3", "text 1"]) == ["if text 3 , ü", "if text 1 , ü"]
    assert pair_files(originals, originals, tmp_path / "all.jsonl", unchanged=True) == 8


def test_files_that_do_not_line_up_are_refused(tmp_path):
    originals = write(tmp_path / "a.jsonl", [{"text": f"a {i}", "label": 0} for i in range(5)])
    paraphrases = write(tmp_path / "b.jsonl", [{"text": f"b {i}", "label": 0} for i in range(4)])
    with pytest.raises(DataError, match="does not line up"):
        pair_files(originals, paraphrases, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
