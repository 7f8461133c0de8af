"""Rewritten texts from a file: what a tool of the user's made of every text beforehand.

The file has a column with the text as it is asked and one with what it was rewritten to. It must
hold every text that will be asked, those with the trigger as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from w2sdefense.data.files import read_records
from w2sdefense.data.rows import Columns
from w2sdefense.errors import DataError

TEXT, REWRITTEN = "text", "rewritten"


class FileRewriter:
    """Looks rewritten texts up.

    Args:
        path: A CSV, JSONL or Parquet file with the columns `text` and `rewritten`.

    Raises:
        DataError: The file is missing or malformed, or has other columns.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise DataError(f"There is no file {path}.", "Check the path.")
        self._path = path
        self._rewritten: dict[str, str] = {}
        for record in read_records(path, Columns(TEXT, REWRITTEN)):
            text, new = record.values.get(TEXT), record.values.get(REWRITTEN)
            if not isinstance(text, str) or not isinstance(new, str):
                raise DataError(
                    f"{path} has a row without {TEXT!r} or {REWRITTEN!r}.",
                    "Give every row both columns, as text.",
                )
            self._rewritten[text] = new

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """The rewritten texts, in order.

        Raises:
            DataError: A text is not in the file.
        """
        missing = [text for text in texts if text not in self._rewritten]
        if missing:
            raise DataError(
                f"{self._path} does not rewrite {len(missing)} texts, such as {missing[0]!r}.",
                "Add them: every test text, and every one with the trigger.",
            )
        return [self._rewritten[text] for text in texts]
