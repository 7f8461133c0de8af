"""Datasets by short name, by hub id or from a file of the user, each as a `Dataset`.

No other stage knows a file format, a column or a split of the hub. Nothing here needs torch, and
`datasets` and `pyarrow` are imported only when a dataset calls for them.
"""

from w2sdefense.data.catalog import CATALOG, PAPER, PROXIES, folder_of, proxy_of
from w2sdefense.data.checks import align_labels, require_aligned
from w2sdefense.data.load import load_dataset
from w2sdefense.data.types import (
    REFUSED,
    Answer,
    Dataset,
    Example,
    Split,
    fingerprint,
    labels_of,
    texts_of,
)

__all__ = [
    "CATALOG",
    "PAPER",
    "PROXIES",
    "REFUSED",
    "Answer",
    "Dataset",
    "Example",
    "Split",
    "align_labels",
    "fingerprint",
    "folder_of",
    "labels_of",
    "load_dataset",
    "proxy_of",
    "require_aligned",
    "texts_of",
]
