"""Converts the records of a source to examples.

All formats are read into `Record`s. These become `Row`s with checked text and label, and rows
become `Example`s with label indices. A row stores its location, so that errors can name the line.
"""

from __future__ import annotations

import math
import re
import reprlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from w2sdefense.data.types import Example, Split
from w2sdefense.errors import DataError

_NUMBER = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_ENDS = re.compile(r"^[\s\u200b-\u200f\u2060\ufeff]+|[\s\u200b-\u200f\u2060\ufeff]+$")
_NO_NUMBER = frozenset({"nan", "inf", "+inf", "-inf", "infinity", "-infinity"})


class Columns(NamedTuple):
    r"""Names of the columns that hold the text and the label.

    With a second column `pair` (the hypothesis beside a premise), the text of a row is both,
    parted by a line end: `premise\nhypothesis`. Every model then reads the pair as one text.
    """

    text: str
    label: str
    pair: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The required columns."""
        return (self.text, self.label) if self.pair is None else (self.text, self.pair, self.label)


@dataclass(frozen=True, slots=True)
class Record:
    """One unprocessed record of a source; `place` is its location, for example `a.csv, line 3`."""

    index: int
    place: str
    values: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Row:
    """One text with its label as a string; the text may be empty, and the label None."""

    id: str
    place: str
    text: str
    label: str | None


@dataclass(frozen=True)
class Source:
    """The rows of a file, a folder, a wheel or a hub dataset."""

    name: str
    splits: Mapping[Split, Sequence[Row]]  # the available splits; `train` may be the only one
    # names of the labels; None if unknown
    label_names: tuple[str, ...] | None = None
    # rows of each split that must be taken from `train`; None means a tenth
    held_out: int | None = None


def missing_column(where: str, column: str, available: Iterable[str]) -> DataError:
    """The error for a missing column, which lists the available ones."""
    return DataError(
        f"{where} has no column {column!r}. The columns are: {listed(available, quoted=True)}.",
        "Name the right ones with --text-column and --label-column (or --target-column).",
    )


def listed(names: Iterable[str], *, quoted: bool = False) -> str:
    """List at most 20 names for an error message; ambiguous ones (blanks, commas) are quoted."""
    found = list(names)
    shown = [
        name[:80]
        if not quoted and name == name.strip() and re.fullmatch(r"[^,\n]+", name)
        else repr(name[:80])
        for name in found[:20]
    ]
    if len(found) > len(shown):
        shown.append(f"and {len(found) - len(shown)} more")
    return ", ".join(shown) or "none"


def to_rows(records: Iterable[Record], columns: Columns, prefix: str) -> list[Row]:
    """Read text and label out of the records of one file or hub split; ids are `prefix/index`.

    Raises:
        DataError: A column is missing, a text is not a string, or a label is not a name or a
            number.
    """
    rows = []
    for record in records:
        for column in columns.names:
            if column not in record.values:
                raise missing_column(record.place, column, record.values)
        text = _read_text(record.values[columns.text], columns.text, record.place)
        if columns.pair is not None:
            pair = _read_text(record.values[columns.pair], columns.pair, record.place)
            # A pair with an empty half counts as an empty text.
            text = f"{text}\n{pair}" if text.strip() and pair.strip() else ""
        label = _read_label(record.values[columns.label], columns.label, record.place)
        rows.append(Row(f"{prefix}/{record.index}", record.place, text, label))
    return rows


def require_usable(rows: Iterable[Row]) -> None:
    """Raise a `DataError` for a row without text or label, in files that a user wrote."""
    for row in rows:
        if not row.text.strip():
            raise DataError(f"{row.place}: the text is empty.", "Remove the line or fill it in.")
        if row.label is None:
            raise DataError(f"{row.place}: the label is empty.", "Remove the line or fill it in.")


def drop_unusable(
    splits: Mapping[Split, Sequence[Row]],
) -> tuple[dict[Split, list[Row]], Counter[str]]:
    """Drop rows without text or label, and splits that have no other rows.

    Published datasets have a few such rows, and some have a test split without any labels.

    Returns:
        The remaining splits, and reason -> number of dropped rows.
    """
    kept: dict[Split, list[Row]] = {}
    dropped: Counter[str] = Counter()
    for split, rows in splits.items():
        labelled = [row for row in rows if row.label is not None]
        usable = [row for row in labelled if row.text.strip()]
        dropped["no label"] += len(rows) - len(labelled)
        dropped["empty text"] += len(labelled) - len(usable)
        if usable:
            kept[split] = usable
    return kept, +dropped


def index_labels(
    splits: Mapping[Split, Sequence[Row]], label_names: tuple[str, ...] | None
) -> tuple[tuple[str, ...], dict[Split, list[Example]]]:
    """Convert labels to indices; returns the label names, and the examples of every split.

    Rows may hold a name or its index. Without `label_names` the names come from the rows: sorted,
    and by value if all are numbers.

    Raises:
        DataError: A row has a label that is not among `label_names`.
    """
    labels = {split: [_class_of(row) for row in rows] for split, rows in splits.items()}
    names = label_names
    if not names:
        own = {label for found in labels.values() for label in found}
        numbers = all(map(_NUMBER.fullmatch, own))
        names = tuple(sorted(own, key=lambda label: (float(label) if numbers else 0.0, label)))
    # A name takes precedence over an index, because labels may be named "1" and "2".
    index = {str(i): i for i in range(len(names))}
    index |= {normal_label(name): i for i, name in enumerate(names)}
    examples: dict[Split, list[Example]] = {}
    for split, rows in splits.items():
        for row, label in zip(rows, labels[split], strict=True):
            if label not in index:
                raise DataError(
                    f"{row.place}: the label {row.label!r} is none of {listed(names)}.",
                    "Correct the label, or name another column with --label-column.",
                )
        examples[split] = [
            Example(row.id, row.text, index[label])
            for row, label in zip(rows, labels[split], strict=True)
        ]
    return names, examples


def normal_label(label: str) -> str:
    """Normalize the spelling of a label: `1`, `1.0` and `"１"` become "1", `"TRUE"` "true"."""
    label = unicodedata.normalize("NFC", _ENDS.sub("", label))
    if (wide := unicodedata.normalize("NFKC", label)).isascii():
        label = wide
    if label.casefold() in ("true", "false"):
        return label.casefold()
    if not _NUMBER.fullmatch(label):
        return label
    if label.lstrip("+-").isdigit():
        return label.lstrip("+") if label.lstrip("+-") != "0" else "0"
    value = float(label)
    # From 2^53 on, a float may not be an exact integer; float32 has six reliable digits.
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else f"{value:.6g}"


def _class_of(row: Row) -> str:
    label = normal_label(str(row.label))
    if label.casefold() in _NO_NUMBER:
        raise DataError(
            f"{row.place}: the label is {row.label!r}, which is no number and no name.",
            "Correct the label or remove the line.",
        )
    return label


def _read_text(value: object, column: str, place: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(
            f"{place}: {column!r} holds {reprlib.repr(value)}, which is not text.",
            "Name the column of the texts with --text-column.",
        )
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON can spell half an emoji ("\ud83d"); no tokenizer takes it
        raise DataError(
            f"{place}: {column!r} holds half a surrogate pair, which is not a character.",
            "Remove it; it is often the rest of an emoji that was cut in two.",
        ) from None
    return value


def _read_label(value: object, column: str, place: str) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)  # missing values turn a column of integers into floats
    if isinstance(value, (int, float, Decimal)):
        return str(value)
    if isinstance(value, str):
        return _read_text(value, column, place).strip() or None
    raise DataError(
        f"{place}: {column!r} holds {reprlib.repr(value)}, which is neither a name nor a number.",
        "Name the column of the labels with --label-column; every text has exactly one.",
    )
