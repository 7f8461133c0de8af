"""Datasets by short name, by hub id or from a file of the user, each as a `Dataset`.

No other stage knows a file format, a column or a split of the hub. Nothing here needs torch, and
`datasets` and `pyarrow` are imported only when a dataset calls for them.
"""

from w2sdefense.data.catalog import (
    CATALOG as CATALOG,
    PAPER as PAPER,
    PROXIES as PROXIES,
    folder_of as folder_of,
    proxy_of as proxy_of,
)
from w2sdefense.data.checks import align_labels as align_labels, require_aligned as require_aligned
from w2sdefense.data.load import load_dataset as load_dataset
from w2sdefense.data.types import (
    REFUSED as REFUSED,
    Answer as Answer,
    Dataset as Dataset,
    Example as Example,
    Split as Split,
    fingerprint as fingerprint,
    labels_of as labels_of,
    texts_of as texts_of,
)
