"""How much of the label the features of a model hold: I(H; Y) of the paper's Eq. 15, from below.

For any probe q that reads the features h,

    I(H; Y) >= H(Y) - E[-log2 q(y | h)]    in bits                        (Barber & Agakov 2003)

and the bound is tight if q is the true posterior. The probe is a logistic regression on the leading
principal components, fitted in folds that the scored text is not in.

The text under attack is the test set as an attacker hands it in: what is not of the target label
carries the trigger. Its features are scored by the probes of *clean* text: a probe of its own would
read the trigger, which tells the label there. 0 says that the trigger has overwritten the label,
not that no other probe could tell the texts apart. Intervals are percentiles over resampled texts,
with the probes kept as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from w2sdefense.errors import DataError
from w2sdefense.evaluation.record import load_features, load_samples

FOLDS = 5
COMPONENTS = 32
PENALTIES = np.logspace(-4, 4, 9)
"""Inverse strengths of the penalty that each probe chooses from, by its own folds."""

LEAST = 1e-12
"""A probe that is surer than this of a wrong label is no worse for it."""

RESAMPLES = 2000
SEED = 0


@dataclass(frozen=True)
class Information:
    """A lower bound of I(H; Y)."""

    bits: float  # the bound; 0 where the probe says less than the shares of the labels do
    interval: tuple[float, float]  # 95 % interval, in bits
    entropy: float  # H(Y), the most there is to know, in bits
    total: int  # number of texts

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.bits:.2f} [{low:.2f}, {high:.2f}] of {self.entropy:.2f} (n = {self.total})"


@dataclass(frozen=True)
class LabelInformation:
    """What the features of a model say of the true label, on clean text and under attack."""

    clean: Information
    attacked: Information | None


def run_information(folder: Path) -> LabelInformation:
    """Estimate the label information of the features that a run saved."""
    samples = load_samples(folder)
    features = load_features(folder, samples)
    if "clean" not in features:
        raise DataError(
            f"{folder} has no features (runs of generation save none).",
            "Name a run of a classifier.",
        )
    rows = [row for row, sample in enumerate(samples) if sample.triggered_text is not None]
    return label_information(
        features["clean"],
        np.array([sample.reference for sample in samples]),
        features.get("triggered"),
        np.array(rows, dtype=int),
    )


def label_information(
    clean: np.ndarray,
    labels: np.ndarray,
    triggered: np.ndarray | None = None,
    rows: np.ndarray | None = None,
) -> LabelInformation:
    """Estimate the label information of features of clean text, and of text under attack.

    Args:
        clean: Features of clean text, (N, d).
        labels: True labels, (N,).
        triggered: Features of the same texts with the trigger, (M, d), or None.
        rows: For every triggered text, the row of its clean twin, (M,).

    Raises:
        DataError: A label has fewer texts than there are folds, or features are not finite.
    """
    if triggered is None or rows is None:
        triggered, rows = clean[:0], np.empty(0, dtype=int)
    _check(clean, labels, triggered)
    said, fired = _log_answers(clean, labels, triggered, rows)
    if not len(rows):
        return LabelInformation(_bound(said, labels), None)
    # Texts of the target label are handed in as they are.
    untouched = np.flatnonzero(~np.isin(labels, labels[rows]))
    attacked = _bound(
        np.concatenate([said[untouched], fired]),
        np.concatenate([labels[untouched], labels[rows]]),
    )
    return LabelInformation(_bound(said, labels), attacked)


def _check(clean: np.ndarray, labels: np.ndarray, triggered: np.ndarray) -> None:
    fewest = np.unique(labels, return_counts=True)[1].min() if len(labels) else 0
    if fewest < FOLDS:
        raise DataError(
            f"A label has only {fewest} texts; {FOLDS} are the least for an estimate.",
            "Measure on more test texts (--test-samples).",
        )
    if not (np.isfinite(clean).all() and np.isfinite(triggered).all()):
        raise DataError("Some features are not finite.", "Look at the losses of the run.")


def _log_answers(
    clean: np.ndarray, labels: np.ndarray, triggered: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """log2 q(true label) of every clean and every triggered text, by a probe that saw neither."""
    # Imported here: it takes seconds, and a record is read without it.
    from sklearn.model_selection import StratifiedKFold

    said, fired = np.empty(len(clean)), np.empty(len(rows))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=SEED)
    for fit, held in folds.split(clean, labels):
        probe = _probe(*clean[fit].shape).fit(clean[fit], labels[fit])
        said[held] = _log_answer(probe, clean[held], labels[held])
        mine = np.flatnonzero(np.isin(rows, held))
        if len(mine):
            fired[mine] = _log_answer(probe, triggered[mine], labels[rows[mine]])
    return said, fired


def _probe(texts: int, width: int) -> Any:
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probes = GridSearchCV(
        LogisticRegression(max_iter=2000),
        {"C": PENALTIES},
        scoring="neg_log_loss",
        cv=FOLDS - 1,
    )
    components = PCA(min(COMPONENTS, width, texts), svd_solver="full")
    return make_pipeline(StandardScaler(), components, probes)


def _log_answer(probe: Any, features: np.ndarray, labels: np.ndarray) -> Any:
    columns = np.searchsorted(probe.classes_, labels)
    said = probe.predict_proba(features)[np.arange(len(labels)), columns]
    return np.log2(np.maximum(said, LEAST))


def _bound(said: np.ndarray, labels: np.ndarray) -> Information:
    """H(Y) plus the mean of log2 q, and its interval over resampled texts."""
    total = len(labels)
    one_hot = (labels[:, None] == np.unique(labels)).astype(float)
    drawn = np.random.default_rng(SEED).multinomial(total, np.full(total, 1 / total), RESAMPLES)
    bounds = _entropy(drawn @ one_hot / total) + drawn @ said / total
    low, high = np.quantile(bounds, (0.025, 0.975))
    entropy = float(_entropy(one_hot.mean(0, keepdims=True))[0])
    value = entropy + float(said.mean())
    return Information(max(0.0, value), (max(0.0, low), max(0.0, high)), entropy, total)


def _entropy(shares: np.ndarray) -> np.ndarray:
    """Entropy of every row of shares, in bits."""
    logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
    entropy: np.ndarray = -(shares * logs).sum(-1)
    return entropy
