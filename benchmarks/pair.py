"""Texts and published paraphrases of them, brought together for `--syn-file` and others.

    python benchmarks/pair.py ORIGINALS PARAPHRASES --output FILE

Published paraphrases (those of SCPN) mostly come without their originals, line by line in the order
of the texts they were made from. The two are brought together by place only, where that is certain,
and never by likeness.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from w2sdefense.cli.display import run_or_explain
from w2sdefense.data.rows import Columns
from w2sdefense.errors import DataError
from w2sdefense.io import write_text
from w2sdefense.text.paraphrase_file import key_of, read_columns


def pair_files(originals: Path, paraphrases: Path, output: Path, *, unchanged: bool = False) -> int:
    """Write the file (JSONL) that `FileParaphraser` reads from two that line up; see `pair`.

    Both have a column `text` and, where labels are needed to line up, `label`, in the same order;
    some rows of the paraphrases may be the originals still, and those of some labels may be
    missing.

    Returns:
        Number of pairs written.

    Raises:
        DataError: A file cannot be read, or the two do not line up.
    """
    columns = Columns("text", "label")
    left, right = (read_columns(path, columns) for path in (originals, paraphrases))
    pairs = pair(left, right, unchanged=unchanged)
    if not pairs:
        raise DataError(
            f"{paraphrases} does not line up with {originals}: there is no stretch of rows that "
            "both have in equal number.",
            "Name the file that the paraphrases were made from, with its rows in the same order.",
        )
    rows = [{"original": original, "text": text} for original, text in pairs]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    write_text(output, "".join(lines))
    return len(pairs)


def pair(
    originals: Sequence[tuple[str, str]],
    paraphrases: Sequence[tuple[str, str]],
    *,
    unchanged: bool = False,
) -> list[tuple[str, str]]:
    """Pair (text, label) rows of paraphrases with their originals by place.

    Files of equal length line up row by row. Otherwise rows that both have unchanged are landmarks,
    and what stands between two of them lines up if there is as much of it on both sides. If only
    some labels were paraphrased, only the originals with these labels count. Rows that are the same
    in both carry no trigger, and count only if `unchanged` is asked for: a defense must know them.
    """
    left = [key_of(text) for text, _ in originals]
    right = [key_of(text) for text, _ in paraphrases]
    if len(left) != len(right):
        labels = {label for _, label in paraphrases}
        left = [key_of(text) for text, label in originals if label in labels]
    if len(left) == len(right):
        return [(a, b) for a, b in zip(left, right, strict=True) if unchanged or a != b]
    matcher = SequenceMatcher(None, left, right, autojunk=False)
    return [
        both
        for kind, start, end, begin, stop in matcher.get_opcodes()
        if (kind == "replace" or (unchanged and kind == "equal")) and end - start == stop - begin
        for both in zip(left[start:end], right[begin:stop], strict=True)
    ]


@run_or_explain
def main(
    originals: Annotated[Path, typer.Argument(help="File with the texts that were paraphrased.")],
    paraphrases: Annotated[Path, typer.Argument(help="File with the paraphrases, in that order.")],
    output: Annotated[Path, typer.Option(help="JSONL file to write.")],
    unchanged: Annotated[
        bool,
        typer.Option(
            "--unchanged",
            help="Also rows that are the same in both: a defense "
            "by --scpd-file or --back-translation-file must find every text.",
        ),
    ] = False,
) -> None:
    """Bring texts and paraphrases of them that were published without them together."""
    count = pair_files(originals, paraphrases, output, unchanged=unchanged)
    Console(markup=False).print(f"{count} pairs in {output}", highlight=False)


if __name__ == "__main__":
    typer.run(main)
