"""Measures a classifier for the record of a run; for text to be written see `generation.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from w2sdefense.attacks import Attack
from w2sdefense.attacks.poisoning import trigger_test_set
from w2sdefense.cli.display import Display
from w2sdefense.commands.folders import history_of, notes_of
from w2sdefense.commands.processes import DividedPredictor
from w2sdefense.data import TextDataset, fingerprint
from w2sdefense.defenses import Defended, Guarded
from w2sdefense.distill.targets import weights_fingerprint
from w2sdefense.evaluation.evaluate import evaluate, label_index
from w2sdefense.evaluation.provenance import Clock
from w2sdefense.evaluation.record import Record, Stage, save_record


@dataclass
class Measured:
    """Measures a model and writes the record of the run that made it.

    Attributes:
        name: Name of the run.
        stage: What the run did.
        config: Its settings.
        data: The dataset, of which the test split is answered.
        clock: Started with the run.
        prints: Fingerprints beside those of the test texts and the model.
    """

    name: str
    stage: Stage
    config: dict[str, Any]
    data: TextDataset
    clock: Clock
    prints: dict[str, str] = field(default_factory=dict)

    def measure(
        self,
        model: Defended,
        attack: Attack | None,
        target: str | None,
        seed: int,
        display: Display,
    ) -> None:
        """Answer the test texts, in all processes; the outcome is kept for `save`."""
        test, names = self.data.test, model.label_names
        triggered = []
        if attack is not None:
            index = label_index(target, names)
            # A slow attack does its work here, where it is seen; `evaluate` finds it done.
            triggered = trigger_test_set(test, attack, index, seed, display.texts)
            self.prints["triggered"] = fingerprint(triggered)
        self.result = evaluate(
            DividedPredictor(model),
            test,
            names,
            attack,
            target,
            seed=seed,
            progress=display.texts(f"evaluate {self.name}", len(test) + len(triggered)),
        )
        victim = model.victim if isinstance(model, Guarded) else model
        self.record = Record(
            name=self.name,
            stage=self.stage,
            config=self.config,
            label_names=names,
            evaluation=self.result.evaluation,
            history=history_of(model.history),
            fingerprints={
                "test": fingerprint(test),
                "model": weights_fingerprint(victim.model),
                **self.prints,
            },
            found=model.found,
            provenance=self.clock.provenance(),
            notes=(
                *model.notes,
                *notes_of(self.data.dropped, self.result.evaluation),
                *self.result.notes,
            ),
        )

    def save(self, folder: Path) -> None:
        """Write the record, when everything that it speaks of is written."""
        save_record(folder, self.record, self.result.samples, self.result.features)
