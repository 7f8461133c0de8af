"""Does the signal that `w2s tune` goes by predict ASR?

Every run in the folders that are named is a model, poisoned or defended, whose ASR was measured
before. Here it is asked about clean validation text with suspicious or random pieces in it, and
what it answers is correlated with its ASR. The triggers are not known to anything but the record
that ASR is read from, and ASR is read for the correlation alone. The search for suspects has a seed
that no run was trained with.

The signal of the library is `exposure`; the others are what else was tried.

    exposure      share of texts with a suspect that follow it, and that the teacher does not
    worst suspect the same for the suspect with the largest share
    pull          mean change of the log-odds of the suspect's label, beyond the teacher's, in nats
    disagree      share of texts with a suspect that teacher and student answer differently
    random flips  share of texts whose answer a random piece changes, and not the teacher's
    random dis.   share of texts with a random piece that teacher and student answer differently

    W2S_DATA=... python benchmarks/tuning_signal.py \
        --teacher runs/coverage/cr-insent/teacher runs/coverage/cr-insent/{poisoned,lora,w2s} \
        $(printf -- '--teacher %s ' runs/bench/nodes/teach-*/teacher) \
        runs/bench/nodes/{poison,defend}-*/*

Models of one victim are asked by the teacher that was made from their training rows. A run that is
not a model of its own (one that filters or rewrites text) does not belong there; nor does a victim
whose trigger is no insertion, because the search for suspects only looks for those.

What is not measured: whether a search by this signal ends at a low ASR (that is a run of `w2s tune`
for hours), other models, other tasks. The runs share victims and training rows, so the intervals,
which draw runs as if they were independent, are too narrow.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from scipy.stats import rankdata
from torch import Tensor

from tables import Row, markdown, percent, recorded
from w2sdefense.cli.display import Display
from w2sdefense.config import (
    AdapterConfig,
    DataConfig,
    InsertionConfig,
    ScanConfig,
    SignalConfig,
    StudentConfig,
)
from w2sdefense.data import Dataset, align_labels, load_dataset
from w2sdefense.data.types import fingerprint, texts_of
from w2sdefense.distill.insertions import with_insertions
from w2sdefense.distill.teacher import Teacher, load_teacher
from w2sdefense.evaluation.metrics import Rate
from w2sdefense.evaluation.record import RECORD, Record, load_record
from w2sdefense.io import write_json, write_text
from w2sdefense.report.runs import unique
from w2sdefense.scan.victim import scan_victim, teacher_answer
from w2sdefense.tasks import Prediction
from w2sdefense.tuning.signal import Probes, exposure, make_probes
from w2sdefense.victim import Victim, load_victim

SEED = 7
SCAN = ScanConfig(
    fine_tuned_from="smollm2-135m",
    suspects=8,
    first=500,
    rounds=4,
    parents=16,
    children=48,
    proof_texts=6,
)
SIGNAL = SignalConfig(pieces=6, texts=12, seed=SEED)
RANDOM_TEXTS, RANDOM_DRAWS = 40, 2
RESAMPLES = 4000
ADAPTER = "adapter_config.json"
USUAL_RANK = AdapterConfig().lora_r
COLLAPSED = 0.05
"""A model that is so much less accurate than the best of its victim is chosen by no signal."""


@dataclass(frozen=True)
class Exam:
    """What all models of one victim are asked, and what the teacher says to it.

    Attributes:
        probes: Texts with suspects.
        teacher_clean: The teacher's answers to the clean texts of the probes, (N, C).
        teacher_tried: Its answers to the texts with suspects, (M, C).
        random: Clean texts, and the same texts with a random piece.
        teacher_random: The teacher's labels for both, (2, R).
    """

    probes: Probes
    teacher_clean: Tensor
    teacher_tried: Tensor
    random: tuple[list[str], list[str]]
    teacher_random: Tensor


def make_exam(
    victim: Victim, teacher: Teacher, data: Dataset, cache: Path, display: Display
) -> Exam:
    """Search the victim for suspects and put them, and random pieces, into validation texts."""
    suspects = scan_victim(victim, teacher, data, SCAN, SEED, cache, display.steps("scan"))
    answer = teacher_answer(teacher)
    probes = make_probes(suspects, answer, data.validation, SIGNAL)
    short = sorted(data.validation, key=lambda example: len(example.text))[:RANDOM_TEXTS]
    clean = texts_of(short) * RANDOM_DRAWS
    changed: list[str] = []
    for draw in range(RANDOM_DRAWS):
        drawn = with_insertions(
            replace(data, validation=tuple(short)),
            victim.tokenizer,
            InsertionConfig(rate=1.0),
            SEED + draw,
        )
        changed += texts_of(drawn.validation)
    return Exam(
        probes,
        answer(probes.texts),
        answer([one.text for one in probes.tries]),
        (clean, changed),
        torch.stack([answer(clean).argmax(-1), answer(changed).argmax(-1)]),
    )


@dataclass(frozen=True)
class Remembered:
    """Answers of a model that are looked up, since every signal asks for some of the same texts."""

    answers: dict[str, Prediction]

    @classmethod
    def of(cls, model: Victim, texts: Sequence[str]) -> Remembered:
        """Ask a model about every text once."""
        unique = list(dict.fromkeys(texts))
        return cls(dict(zip(unique, model.predict(unique), strict=True)))

    def predict(
        self, texts: Sequence[str], progress: Callable[[int], None] | None = None
    ) -> list[Prediction]:
        """The answers to texts that were asked before."""
        return [self.answers[text] for text in texts]


def signals(model: Victim, exam: Exam) -> Row:
    """All signals of one model, by name."""
    tries = exam.probes.tries
    asked = [*exam.probes.texts, *(one.text for one in tries), *exam.random[0], *exam.random[1]]
    student = Remembered.of(model, asked)
    places = torch.tensor([one.place for one in tries])
    targets = torch.tensor([one.suspect.target for one in tries])
    clean = _probabilities(student, exam.probes.texts)[places]
    tried = _probabilities(student, [one.text for one in tries])
    before, after = (_probabilities(student, texts).argmax(-1) for texts in exam.random)
    follows = (clean.argmax(-1) != targets) & (tried.argmax(-1) == targets)
    follows &= exam.teacher_tried.argmax(-1) != targets
    pull = _log_odds(tried, targets) - _log_odds(clean, targets)
    own = _log_odds(exam.teacher_tried, targets) - _log_odds(exam.teacher_clean[places], targets)
    teacher_before, teacher_after = exam.teacher_random
    counted = exposure(student, exam.probes)
    if counted != Rate(hits=int(follows.sum()), total=len(tries)):
        raise ValueError("the library counts otherwise than this benchmark")
    return {
        "exposure": counted.value,
        "worst suspect": _worst(follows, [one.suspect.piece for one in tries]),
        "pull": float((pull - own.clamp(min=0)).mean()),
        "disagree": _share(tried.argmax(-1) != exam.teacher_tried.argmax(-1)),
        "random flips": _share((before != after) & (teacher_before == teacher_after)),
        "random dis.": _share(after != teacher_after),
    }


def _probabilities(student: Remembered, texts: Sequence[str]) -> Tensor:
    return torch.tensor([one.probabilities for one in student.predict(texts)])


def _log_odds(probabilities: Tensor, targets: Tensor) -> Tensor:
    chosen = probabilities.double().gather(1, targets[:, None])[:, 0]
    return chosen.clamp(1e-4, 1 - 1e-4).logit()


def _share(which: Tensor) -> float:
    return float(which.float().mean())


def _worst(follows: Tensor, pieces: Sequence[str]) -> float:
    by_piece: dict[str, list[bool]] = {}
    for piece, one in zip(pieces, follows.tolist(), strict=True):
        by_piece.setdefault(piece, []).append(one)
    return max(sum(ones) / len(ones) for ones in by_piece.values())


SIGNALS = ("exposure", "worst suspect", "pull", "disagree", "random flips", "random dis.")


def correlations(rows: Sequence[Row], of: str) -> Row:
    """Spearman's and Pearson's coefficient of one signal with ASR, with 95 % intervals.

    Args:
        rows: Models.
        of: Which signal.

    Returns:
        Coefficients with percentile intervals over models drawn with replacement.
    """
    x, y = np.array([row[of] for row in rows]), np.array([row["asr"] for row in rows])
    drawn = np.random.default_rng(0).integers(len(rows), size=(RESAMPLES, len(rows)))
    found: Row = {"signal": of, "n": len(rows)}
    for name, transform in (("spearman", rankdata), ("pearson", np.asarray)):
        values = [_pearson(transform(x[d]), transform(y[d])) for d in drawn]
        known = [value for value in values if value is not None]
        found[name] = _pearson(transform(x), transform(y))
        found[f"{name}_interval"] = list(np.quantile(known, (0.025, 0.975))) if known else None
    return found


def _pearson(x: np.ndarray, y: np.ndarray) -> float | None:
    """Pearson's coefficient; None where one of the two does not vary."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


@dataclass(frozen=True)
class Group:
    """A victim and what was made of it.

    Attributes:
        origin: Folder of the victim.
        runs: Folders of the models to ask, and their records.
        data: The clean data of the defender.
        title: Trigger and dataset, numbered where several victims have the same. The tables know
            a victim by it.
    """

    origin: Path
    runs: dict[Path, Record]
    data: DataConfig
    title: str

    def open(self, run: Path) -> Victim:
        """Open one of the models."""
        record = self.runs.get(run) or load_record(run)
        student = StudentConfig(
            model=str(run),
            base=str(self.origin) if (run / ADAPTER).is_file() else None,
            max_length=record.config["student"]["max_length"],
        )
        return load_victim(student, record.label_names)


def groups_of(runs: Sequence[Path]) -> list[Group]:
    """The finished runs by victim.

    Raises:
        ValueError: Nothing defended is there to take the data from.
    """
    found: dict[Path, dict[Path, Record]] = {}
    for run in runs:
        if (run / RECORD).is_file():
            record = load_record(run)
            poisoned = record.stage == "poison"
            origin = run if poisoned else Path(record.config["student"]["model"])
            found.setdefault(origin.resolve(), {})[run] = record
    groups: list[Group] = []
    for origin, records in found.items():
        defended = next((one for one in records.values() if one.stage == "defend"), None)
        if defended is None:
            raise ValueError(f"{origin}: none of the runs is a defense of it")
        data = DataConfig.model_validate(defended.config["data"])
        title = f"{defended.config['test']['trigger']} on {Path(data.dataset).name}"
        title = unique(title, {group.title for group in groups})
        groups.append(Group(origin, records, data, title))
    return groups


def teacher_of(data: Dataset, teachers: Sequence[Path]) -> Teacher:
    """The teacher that was made from these training rows.

    Raises:
        ValueError: There is none.
    """
    for folder in teachers:
        made_from = json.loads((folder / "made_from.json").read_text(encoding="utf-8"))
        if made_from["train"] == fingerprint(data.train):
            return load_teacher(folder)
    raise ValueError(f"No teacher was made from these training rows of {data.name}.")


def _name(run: Path, record: Record) -> str:
    """The run's folder, with what is unusual about its adapter."""
    adapter = record.config.get("adapter", {})
    kind, rank = adapter.get("adapter", "lora"), adapter.get("lora_r", USUAL_RANK)
    unusual = kind if kind != "lora" else f"r {rank}" if rank != USUAL_RANK else ""
    return f"{run.name} {unusual}".strip()


def main(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs with a trigger.")],
    teacher: Annotated[list[Path], typer.Option(help="Folder of a clean teacher.")],
    cache: Annotated[Path, typer.Option(help="Keeps suspects.")] = Path("runs/tuning_signal"),
    results: Annotated[Path, typer.Option(help="Tables.")] = Path("benchmarks/results"),
) -> None:
    """Measure all signals of all models, and correlate them with ASR."""
    rows = []
    with Display() as display:
        for group in groups_of(runs):
            victim = group.open(group.origin)
            data = align_labels(load_dataset(group.data), victim.label_names)
            exam = make_exam(victim, teacher_of(data, teacher), data, cache, display)
            for run, record in group.runs.items():
                found = signals(group.open(run), exam)
                measured = recorded(run) or {}
                kept = {name: measured[name] for name in measured if name.split("_")[-1] in KEPT}
                rows.append({"victim": group.title, "run": _name(run, record), **kept, **found})
                display.say(f"{run}: " + ", ".join(f"{k} {v:.2f}" for k, v in found.items()))
    write_results(rows, results)
    Console().print((results / "tuning_signal.md").read_text(encoding="utf-8"))


KEPT = ("ca", "asr", "floor", "interval")


def write_results(rows: Sequence[Row], results: Path) -> None:
    """Write the table of models and that of the correlations."""
    best: dict[str, float] = {}
    for row in rows:
        best[row["victim"]] = max(row["ca"], best.get(row["victim"], 0.0))
    sound = [row for row in rows if row["ca"] >= best[row["victim"]] - COLLAPSED]
    near = f"CA within {100 * COLLAPSED:g} points of the victim's best"
    groups = {"all models": rows, near: sound}
    for victim in sorted({row["victim"] for row in rows}):
        groups[f"victim {victim}"] = [row for row in sound if row["victim"] == victim]
    table = [
        {"models": name, **correlations(group, signal)}
        for name, group in groups.items()
        for signal in SIGNALS
    ]
    write_json(results / "tuning_signal.json", {"models": rows, "correlations": table})
    text = markdown(rows, _model_columns()) + "\n" + markdown(table, CORRELATION_COLUMNS)
    write_text(results / "tuning_signal.md", text)


def _model_columns() -> dict[str, Callable[[Row], object]]:
    columns: dict[str, Callable[[Row], object]] = {
        "victim": lambda row: row["victim"],
        "run": lambda row: row["run"],
        "CA %": percent("ca"),
        "ASR %": percent("asr"),
        "floor %": percent("floor"),
    }
    return columns | {name: lambda row, of=name: f"{row[of]:.2f}" for name in SIGNALS}


def _coefficient(name: str) -> Callable[[Row], str | None]:
    def cell(row: Row) -> str | None:
        if row[name] is None:
            return None
        low, high = row[f"{name}_interval"]
        return f"{row[name]:+.2f} [{low:+.2f}, {high:+.2f}]"

    return cell


CORRELATION_COLUMNS: dict[str, Callable[[Row], object]] = {
    "models": lambda row: row["models"],
    "signal": lambda row: row["signal"],
    "Spearman": _coefficient("spearman"),
    "Pearson": _coefficient("pearson"),
    "n": lambda row: row["n"],
}


if __name__ == "__main__":
    typer.run(main)
