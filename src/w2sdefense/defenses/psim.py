"""PSIM: refuses texts that a copy of the model, trained on random labels, answers confidently.

Zhao et al. 2024, "Defending Against Weight-Poisoning Backdoor Attacks for Parameter-Efficient
Fine-Tuning" (https://arxiv.org/abs/2402.12168). A copy of the victim is trained through PEFT on
clean texts with random labels. The copy becomes unsure on clean text. PEFT does not affect the
trigger, so the copy stays confident on triggered text. A text is refused if the copy's highest
probability is above a threshold; the victim itself answers all other texts.

The threshold is chosen on clean validation text: it is the lowest one that refuses correctly
answered texts amounting to at most `max_loss` of all texts, which bounds the loss of accuracy. PSIM
needs memory for a second model, and a second forward pass for every text.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import PositiveFloat

from w2sdefense.config import AdapterConfig, Fraction, Positive, Settings, TrainingConfig, setting
from w2sdefense.data.types import labels_of, texts_of
from w2sdefense.defenses.base import Defended, Defense, DefenseKit, Guarded, Leaves, Need, victim_of

if TYPE_CHECKING:
    from w2sdefense.victim import Victim


COPY = AdapterConfig(adapter="p-tuning", virtual_tokens=5)  # the adapter of the copy


class PsimConfig(Settings):
    """PSIM: a copy learns random labels, and what it is still sure of is refused."""

    epochs: Positive = setting(1, "Passes over the clean rows with random labels.")
    learning_rate: PositiveFloat = setting(
        1e-3, "Peak learning rate of the copy (the paper: 2e-5)."
    )
    max_loss: Fraction = setting(
        0.02, "Largest loss of accuracy on clean validation text, by refusals."
    )


@dataclass(frozen=True)
class Psim(Defense):
    """Refuses texts that a copy trained on random labels still answers confidently."""

    psim: PsimConfig = field(default_factory=PsimConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    name: ClassVar[str] = "psim"
    title: ClassVar[str] = "PSIM"
    needs: ClassVar[tuple[Need, ...]] = (Need.CLEAN_DATA,)
    leaves: ClassVar[Leaves] = Leaves.NOTHING
    needs_labels: ClassVar[bool] = True

    def trains(self) -> bool:
        """True: the copy is trained."""
        return True

    def apply(self, victim: Defended, kit: DefenseKit) -> Guarded:
        """Train the copy, choose the threshold, and use both as a guard."""
        confused, history = self._train(victim, kit)
        examples = kit.data.validation
        texts, labels = texts_of(examples), labels_of(examples)
        sure = confidences(confused, texts)
        correct = [a.answer == y for a, y in zip(victim.predict(texts), labels, strict=True)]
        threshold = choose_threshold(sure, correct, self.psim.max_loss)

        def refuse(asked: Sequence[str]) -> list[str | None]:
            found = confidences(confused, asked)
            return [t if c <= threshold else None for t, c in zip(asked, found, strict=True)]

        return Guarded(
            victim,
            refuse,
            found={
                "psim_threshold": threshold,
                "psim_validation_texts": len(texts),
                "psim_validation_refused": sum(value > threshold for value in sure),
            },
            history=history,
        )

    def _train(self, victim: Defended, kit: DefenseKit) -> tuple[Victim, list[dict[str, float]]]:
        """A copy of the model, trained through PEFT on random labels."""
        from transformers import set_seed

        from w2sdefense.models.adapters import attach_adapter
        from w2sdefense.models.tokenizer import check_length
        from w2sdefense.training.fit import fit, task_collator, task_forward
        from w2sdefense.victim import Victim

        original = victim_of(victim)
        training = self.training.model_copy(
            update={"epochs": self.psim.epochs, "learning_rate": self.psim.learning_rate}
        )
        set_seed(training.seed)
        model = attach_adapter(copy.deepcopy(original.model), COPY)
        check_length(model, original.max_length)
        rng = random.Random(training.seed)
        labels = len(original.label_names)
        rows = [replace(row, answer=rng.randrange(labels)) for row in kit.data.train]
        task = original.task
        trainer = fit(
            model,
            task_collator(task, model),
            task_forward(task, model),
            task.rows(rows),
            None,
            training=training,
            folder=kit.folder,
            resume=kit.resume,
            progress=kit.progress_of("random labels"),
        )
        return Victim(model, task), trainer.state.log_history


def confidences(model: Victim, texts: Sequence[str]) -> list[float]:
    """The highest label probability of a model, for every text."""
    return [max(answer.probabilities) for answer in model.predict(texts)]


def choose_threshold(
    confidences: Sequence[float], correct: Sequence[bool], max_loss: float
) -> float:
    """The lowest confidence of the copy above which texts can be refused.

    At most a share `max_loss` of the texts may be lost. Refusing a text that the victim answers
    incorrectly costs nothing.
    """
    costly = sorted((c for c, ok in zip(confidences, correct, strict=True) if ok), reverse=True)
    allowed = int(max_loss * len(correct) + 1e-9)
    return costly[allowed] if allowed < len(costly) else 0.0
