"""A SQLite file of all results in a ledger, for questions in SQL.

It is made anew from the folder each time and is never asked by anything here: it can be removed at
any time, and what it says is what the folder said when it was made.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from w2sdefense.bench.disk import explain_full_disk
from w2sdefense.bench.ledger import Ledger
from w2sdefense.io import atomic_path

INDEX = "index.sqlite"


def write_index(ledger: Ledger) -> Path:
    """Write `index.sqlite` with a table `nodes`: a row for every node that is made.

    Raises:
        FullDiskError: There is no room.
    """
    rows = [
        (done.key, done.kind, done.title, done.seconds, done.host, json.dumps(done.result))
        for done in ledger.all_done()
    ]
    path = ledger.folder / INDEX
    with explain_full_disk(ledger.folder), atomic_path(path) as temporary:
        with closing(sqlite3.connect(temporary)) as database, database:
            database.execute(
                "CREATE TABLE nodes (key TEXT PRIMARY KEY, kind TEXT, title TEXT, seconds REAL, "
                "host TEXT, result TEXT)"
            )
            database.executemany("INSERT INTO nodes VALUES (?, ?, ?, ?, ?, ?)", rows)
    return path
