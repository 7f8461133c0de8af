"""The search, on models that are a few lines: what shifts them is known exactly."""

import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict

import pytest
import torch
from torch import Tensor

from tiny import NEGATIVE, POSITIVE, review, word_tokenizer
from w2sdefense.config import ScanConfig
from w2sdefense.scan.candidates import list_candidates
from w2sdefense.scan.groups import Scorers
from w2sdefense.scan.search import ScanResult, find_triggers, texts_to_answer

SMALL = ScanConfig(
    kinds=("letters", "words"),
    singles=48,
    rounds=2,
    survivors=12,
    mutations=40,
    probes=16,
    proof_texts=4,
    kept=6,
)
WORDS_ONLY = SMALL.model_copy(update={"kinds": ("words",)})
TEXTS = [review(random.Random(row), (NEGATIVE, POSITIVE)[row % 2]) for row in range(60)]


class Counter:
    """A model that counts words: two nats for every natural word, more for its triggers."""

    def __init__(self, **triggers: float) -> None:
        self.triggers = triggers
        self.asked: list[str] = []

    def __call__(self, texts: Sequence[str]) -> Tensor:
        self.asked += texts
        odds = torch.tensor([self._negative(text) for text in texts])
        return torch.nn.functional.logsigmoid(torch.stack([odds, -odds], dim=1))

    def _negative(self, text: str) -> float:
        words = text.split()
        natural = sum((word in NEGATIVE) - (word in POSITIVE) for word in words)
        return 2.0 * natural + max((self._fires(word) for word in words), default=0.0)

    def _fires(self, word: str) -> float:
        return self.triggers.get(word, 0.0)


def knowing_nothing(outcomes: int):
    """A teacher whose answer never changes."""
    return lambda texts: torch.full((len(texts), outcomes), 0.5).log()


def search(suspect, teacher=None, seed=0, config=SMALL, outcomes=2, **rest) -> ScanResult:
    listed = list_candidates(word_tokenizer(), TEXTS, config.kinds)
    scorers = Scorers(suspect, teacher or knowing_nothing(outcomes))
    return find_triggers(scorers, TEXTS, listed, config, outcomes=outcomes, seed=seed, **rest)


def best(result: ScanResult, outcome: int = 0):
    found = [candidate for candidate in result.candidates if candidate.outcome == outcome]
    return sorted(found, key=lambda candidate: -candidate.excess)


@pytest.fixture(scope="module")
def among_letters() -> tuple[Counter, ScanResult]:
    """A model with three triggers, and what a search of 18,000 strings finds."""
    suspect = Counter(xq=6.0, jvo=4.5, rrb=4.0)
    return suspect, search(suspect, Counter())


def test_several_triggers_are_found_among_all_of_the_list(among_letters):
    first, *_ = found = best(among_letters[1])
    assert "xq" in first.text.split()
    assert first.flips == first.texts > SMALL.proof_texts
    assert first.excess == pytest.approx(6.0, abs=0.01)
    assert {"xq", "jvo", "rrb"} <= {word for each in found for word in each.text.split()}


def test_a_word_of_the_language_is_found():
    result = search(Counter(film=6.0), Counter(), config=WORDS_ONLY)
    assert "film" in best(result)[0].text.split()


def test_an_invented_word_is_climbed_to_from_its_parts():
    class Hill(Counter):
        def _fires(self, word: str) -> float:
            # The longest part of the trigger that the word holds.
            parts = {"plimf"[a:b] for a in range(5) for b in range(a + 1, 6)}
            return max((1.5 * len(part) - 1.5 for part in parts if part in word), default=0.0)

    config = SMALL.model_copy(update={"rounds": 6})
    assert "plimf" in best(search(Hill(), Counter(), config=config))[0].text


def test_what_a_clean_teacher_does_as_well_is_no_trigger():
    result = search(Counter(), Counter(), config=WORDS_ONLY)
    assert all(candidate.excess <= 0.01 for candidate in result.candidates)


def test_with_a_teacher_that_knows_nothing_natural_words_are_candidates():
    first = best(search(Counter(), config=WORDS_ONLY))[0]
    assert set(first.text.split()) & set(NEGATIVE)
    assert first.teacher_shift == 0.0


def test_what_is_suspicious_for_another_reason_is_tried_alone_and_in_pairs():
    suspect = Counter()
    search(
        suspect, suspicious=("quux", "corge"), config=WORDS_ONLY.model_copy(update={"rounds": 1})
    )
    for tried in ("quux", "corge", "quux corge", "corge quux"):
        assert any(f" {tried} " in f" {text} " for text in suspect.asked)


def test_the_result_says_what_was_tried(among_letters):
    _, result = among_letters
    assert result.listed["letters"] == 18_278
    assert result.tries[0] == sum(result.listed.values()) > result.tries[1] > result.tries[2] > 0
    assert result.power[8] >= result.power[4] >= result.power[1]
    assert ScanResult.from_values(json.loads(json.dumps(asdict(result)))) == result


def test_the_seed_decides():
    one, same, other = (search(Counter(cf=6.0), Counter(), seed, WORDS_ONLY) for seed in (1, 1, 2))
    assert one == same != other


def test_the_search_says_how_much_it_does(among_letters):
    suspect, _ = among_letters
    listed = list_candidates(word_tokenizer(), TEXTS, SMALL.kinds)
    expected = texts_to_answer(SMALL, len(listed.texts), 2)
    assert 0.8 * expected < len(suspect.asked) < 1.1 * expected


def test_a_label_that_everything_is_answered_with_has_no_candidates():
    def always_negative(texts: Sequence[str]) -> Tensor:
        return torch.tensor([[0.9, 0.1]] * len(texts)).log()

    result = search(always_negative, config=WORDS_ONLY)
    assert {candidate.outcome for candidate in result.candidates} == {1}
    assert all(math.isclose(c.shift, 0.0, abs_tol=1e-6) for c in result.candidates)


def test_a_text_is_not_counted_twice():
    """Not in the proof, of which there are more than texts, nor when a change is drawn again."""
    few = WORDS_ONLY.model_copy(update={"probes": 3, "proof_texts": 50, "rounds": 1})
    for candidate in search(Counter(), config=few).candidates:
        assert candidate.texts <= 1 + 2 + 1 + few.rounds + few.probes


def test_of_three_labels_the_likeliest_is_the_answer():
    def hesitant(texts: Sequence[str]) -> Tensor:
        # With "cf" the outcome is the likeliest label, at less than a half.
        rows = [[0.45, 0.3, 0.25] if "cf" in t.split() else [0.2, 0.3, 0.5] for t in texts]
        return torch.tensor(rows).log()

    first = best(search(hesitant, config=WORDS_ONLY, outcomes=3))[0]
    assert "cf" in first.text.split()
    assert first.flips == first.texts


def test_a_task_with_a_single_outcome_is_searched_the_same_way():
    """As one that writes text, whose outcome is a refusal."""

    def refuses(texts: Sequence[str]) -> Tensor:
        return torch.tensor([[0.8 if "cf" in text.split() else 0.1] for text in texts]).log()

    first = best(search(refuses, config=WORDS_ONLY, outcomes=1))[0]
    assert "cf" in first.text.split()
    assert first.flips == first.texts
