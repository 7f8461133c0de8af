"""Texts that a tool rewrote before: a file with the columns `original` and `text`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Self

from w2sdefense.data.files import read_records
from w2sdefense.data.rows import Columns
from w2sdefense.errors import DataError


@dataclass(frozen=True, eq=False)
class FileParaphraser:
    """Paraphrases by the text they were made from, with single spaces."""

    paraphrases: Mapping[str, str]

    @classmethod
    def read(cls, files: Sequence[Path]) -> Self:
        """Read files of paraphrases; what a later file says wins."""
        found: dict[str, str] = {}
        for path in files:
            for text, original in read_columns(path, Columns("text", "original")):
                found[key_of(original)] = text
        return cls(MappingProxyType(found))

    def covers(self, text: str) -> bool:
        """Whether the files have a paraphrase of this text."""
        return key_of(text) in self.paraphrases

    def rewrite(self, texts: Sequence[str]) -> list[str]:
        """The paraphrases of texts that must all be covered, in order."""
        missing = [text for text in texts if not self.covers(text)]
        if missing:
            raise DataError(
                f"The file has nothing for {len(missing)} texts, such as {missing[0]!r}.",
                "Add them: every test text, every one with the trigger, and those that came out "
                "as they were (benchmarks/pair.py --unchanged).",
            )
        return [self.paraphrases[key_of(text)] for text in texts]


def read_columns(path: Path, columns: Columns) -> list[tuple[str, str]]:
    """Two columns of a file; a `DataError` names the place of what is missing or empty."""
    rows = []
    for record in read_records(path, columns):
        values = [record.values.get(column) for column in columns.names]
        if any(value is None or value == "" for value in values):
            raise DataError(
                f"{record.place}: {' or '.join(map(repr, columns.names))} is missing or empty.",
                "Fill it in; benchmarks/pair.py writes a file of originals and their paraphrases.",
            )
        rows.append((str(values[0]), str(values[1])))
    return rows


def key_of(text: str) -> str:
    """What a text is looked up by: itself, with single spaces."""
    return " ".join(text.split())
