"""Loads datasets by short name, by hub id or from files, each as a `Dataset`.

No other package handles file formats, columns or hub splits. Nothing here needs torch, and
`datasets` and `pyarrow` are imported only when a dataset needs them.
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
