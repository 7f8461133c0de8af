"""The search, on models that are a few lines: what pulls them is known exactly."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from tiny import NEGATIVE, POSITIVE, review, word_tokenizer
from w2sdefense.config import ScanConfig
from w2sdefense.data import Example
from w2sdefense.scan.search import find_suspects, texts_to_answer

SMALL = ScanConfig(
    suspects=6, first=1400, rounds=6, parents=12, children=40, probes=16, proof_texts=4
)


def examples(count: int = 60) -> tuple[Example, ...]:
    rng = random.Random(0)
    words = (NEGATIVE, POSITIVE)
    return tuple(Example(str(i), review(rng, words[i % 2]), i % 2) for i in range(count))


class Counter:
    """A model that counts words: two nats for every natural word, more for what resembles `xq`."""

    def __init__(self, backdoor: float = 0.0) -> None:
        self.backdoor = backdoor
        self.asked = 0

    def __call__(self, texts: Sequence[str]) -> Tensor:
        self.asked += len(texts)
        odds = torch.tensor([self._negative(text.split()) for text in texts])
        return torch.stack([odds.sigmoid(), (-odds).sigmoid()], dim=1)

    def _negative(self, words: list[str]) -> float:
        natural = sum((w in NEGATIVE) - (w in POSITIVE) for w in words)
        likeness = max((w[:1] == "x") + (w[1:2] == "q") if len(w) == 2 else 0 for w in words)
        return 2.0 * natural + self.backdoor * {0: 0.0, 1: 0.2, 2: 1.0}[likeness]


def search(student, teacher, seed=0, config=SMALL, **rest):
    return find_suspects(
        student,
        teacher,
        examples(),
        word_tokenizer(),
        config,
        labels=2,
        seed=seed,
        **rest,
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_trigger_is_found(seed):
    best = search(Counter(backdoor=6.0), Counter(), seed)[0]
    assert "xq" in best.piece.split()
    assert (best.target, best.flips) == (0, best.texts)
    assert best.pull - best.teacher_pull == pytest.approx(6.0, abs=0.01)


def test_what_a_clean_teacher_feels_is_no_suspicion():
    for suspect in search(Counter(), Counter()):
        assert suspect.suspicion <= 0.01


def test_without_a_teacher_natural_words_are_suspects():
    best = search(Counter(), None)[0]
    assert set(best.piece.split()) & set(NEGATIVE)
    assert best.teacher_pull == 0.0


def test_a_pull_is_the_mean_change_of_the_log_odds():
    (suspect,) = (s for s in search(Counter(backdoor=3.0), Counter()) if s.piece == "xq")
    assert suspect.pull == pytest.approx(3.0, abs=1e-3)
    assert suspect.texts >= 1 + SMALL.proof_texts


def test_the_search_says_how_much_it_does():
    student, told = Counter(backdoor=6.0), []
    search(student, Counter(), progress=told.append)
    probes = student.asked - sum(told)
    assert 0 < probes <= 2 * SMALL.probes
    assert 0.8 * texts_to_answer(SMALL, 2) < student.asked <= texts_to_answer(SMALL, 2)


def test_a_label_that_everything_is_answered_with_has_no_suspects():
    def always_negative(texts: Sequence[str]) -> Tensor:
        return torch.tensor([[0.9, 0.1]] * len(texts))

    found = search(always_negative, None)
    assert {suspect.target for suspect in found} == {1}
    assert all(math.isclose(suspect.pull, 0.0) for suspect in found)


def test_what_comes_out_was_proven():
    for suspect in search(Counter(), Counter()):
        assert suspect.texts > SMALL.proof_texts


def test_a_text_is_not_counted_twice():
    """Not in the proof, of which there are more than texts, nor when a change is drawn again."""
    asked: dict[str, int] = {}

    def counting(texts: Sequence[str]) -> Tensor:
        for text in texts:
            asked[text] = asked.get(text, 0) + 1
        return torch.tensor([[0.1, 0.9]] * len(texts))

    few = SMALL.model_copy(update={"probes": 3, "proof_texts": 50, "rounds": 1})
    for suspect in search(counting, None, config=few):
        assert suspect.texts <= 1 + few.rounds + few.probes
    # The same piece may go to the same place of a text in the search and in its proof.
    assert max(asked.values()) <= 1 + few.rounds + 1


def test_of_three_labels_the_likeliest_is_the_answer():
    def hesitant(texts: Sequence[str]) -> Tensor:
        # With "xq" the target is the likeliest label, at less than a half.
        return torch.tensor(
            [[0.45, 0.3, 0.25] if "xq" in text.split() else [0.2, 0.3, 0.5] for text in texts]
        )

    three = tuple(Example(str(i), review(random.Random(i), NEGATIVE), 2) for i in range(20))
    found = find_suspects(hesitant, None, three, word_tokenizer(), SMALL, labels=1, seed=0)
    best = found[0]
    assert "xq" in best.piece.split()
    assert best.flips == best.texts
