"""Rows as a source gives them, and their way to examples.

Every format is read into `Record`s; these become `Row`s, whose text and label have been looked at,
and rows become `Example`s with label indices. A row remembers where it came from, because an error
that does not name the line is of no use.
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
        """The columns that have to be there."""
        return (self.text, self.label) if self.pair is None else (self.text, self.pair, self.label)


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a source, untouched; `place` is where it is, for example `a.csv, line 3`."""

    index: int
    place: str
    values: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Row:
    """One text with its label as written; the text may be empty, and the label None."""

    id: str
    place: str
    text: str
    label: str | None


@dataclass(frozen=True)
class Source:
    """What a file, a folder, a wheel or the hub holds."""

    name: str
    splits: Mapping[Split, Sequence[Row]]  # the splits there are; `train` may be the only one
    # names of the labels if the source is known to have them, otherwise None
    label_names: tuple[str, ...] | None = None
    # rows of each split that has to be carved out of `train`; None means a tenth
    held_out: int | None = None


def missing_column(where: str, column: str, available: Iterable[str]) -> DataError:
    """The error for a column that is not there, naming those that are."""
    return DataError(
        f"{where} has no column {column!r}. The columns are: {listed(available, quoted=True)}.",
        "Name the right ones with --text-column and --label-column (or --target-column).",
    )


def listed(names: Iterable[str], *, quoted: bool = False) -> str:
    """Names for an error message, 20 at most; quoted where a blank or a comma would be lost."""
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
            # Half a pair is no text.
            text = f"{text}\n{pair}" if text.strip() and pair.strip() else ""
        label = _read_label(record.values[columns.label], columns.label, record.place)
        rows.append(Row(f"{prefix}/{record.index}", record.place, text, label))
    return rows


def require_usable(rows: Iterable[Row]) -> None:
    """Insist on a text and a label in every row: the contract for files that a user wrote."""
    for row in rows:
        if not row.text.strip():
            raise DataError(f"{row.place}: the text is empty.", "Remove the line or fill it in.")
        if row.label is None:
            raise DataError(f"{row.place}: the label is empty.", "Remove the line or fill it in.")


def drop_unusable(
    splits: Mapping[Split, Sequence[Row]],
) -> tuple[dict[Split, list[Row]], Counter[str]]:
    """Leave out rows without text or label, and splits that have no other rows.

    Published datasets hold a few such rows, and some publish a test split without any labels.

    Returns:
        The splits that are left, and reason -> number of rows left out.
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
    """Turn labels into indices: the names, and the examples of every split.

    Rows may hold a name or its index. Without `label_names` the names are taken from the rows:
    sorted, by value if all are integers.

    Raises:
        DataError: A row has a label that is not among `label_names`.
    """
    labels = {split: [_class_of(row) for row in rows] for split, rows in splits.items()}
    names = label_names
    if not names:
        own = {label for found in labels.values() for label in found}
        numbers = all(map(_NUMBER.fullmatch, own))
        names = tuple(sorted(own, key=lambda label: (float(label) if numbers else 0.0, label)))
    # A name wins over an index: labels may be called "1" and "2".
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
    """One spelling of one value: `1`, `1.0`, `"１"` are all "1", `"TRUE"` is "true"."""
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
    # Above 2^53 a float is no certain integer; six digits are what 32 bits of it can tell.
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
        value = int(value)  # a column of integers has become one of floats where one is missing
    if isinstance(value, (int, float, Decimal)):
        return str(value)
    if isinstance(value, str):
        return _read_text(value, column, place).strip() or None
    raise DataError(
        f"{place}: {column!r} holds {reprlib.repr(value)}, which is neither a name nor a number.",
        "Name the column of the labels with --label-column; every text has exactly one.",
    )
