"""Group testing, on a model of a few lines whose trigger and noise are known exactly."""

import random
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from w2sdefense.scan.candidates import letter_strings
from w2sdefense.scan.groups import (
    ROUNDS,
    SHARE,
    Carrier,
    choose_carriers,
    group_texts,
    score_in_groups,
    split_into_groups,
)

CARRIERS = [Carrier("so it", f"is how carrier {number} ends .") for number in range(ROUNDS)]
WORDS = letter_strings(2)


class Model:
    """Two labels; every word adds noise of its own, and a trigger adds `nats` to the first."""

    def __init__(self, nats: float = 0.0, trigger: str = "xq", noise: float = 0.3) -> None:
        self.nats, self.trigger, self.noise = nats, trigger, noise
        self.asked: list[str] = []

    def __call__(self, texts: Sequence[str]) -> Tensor:
        self.asked += texts
        odds = torch.tensor([self._odds(text.split()) for text in texts])
        return torch.nn.functional.logsigmoid(torch.stack([odds, -odds], 1))

    def _odds(self, words: list[str]) -> float:
        noise = sum(random.Random(word).gauss(0, self.noise) for word in words)
        return noise + self.nats * (self.trigger in words)


@given(st.integers(1, 500), st.integers(1, 40), st.integers(0, 9))
def test_groups_are_a_partition_of_nearly_equal_sizes(count, size, seed):
    groups = split_into_groups(range(count), size, random.Random(seed))
    assert sorted(place for group in groups for place in group) == list(range(count))
    sizes = {len(group) for group in groups}
    assert max(sizes) <= size and max(sizes) - min(sizes) <= 1


def test_every_candidate_is_tried_and_the_best_of_each_outcome_again():
    model = Model()
    scores = score_in_groups(model, WORDS, CARRIERS, 12, random.Random(0))
    tried = Counter(word for text in model.asked for word in text.split() if word in set(WORDS))
    # "so", "it" and "is" also stand in the carriers.
    for place, word in enumerate(WORDS):
        if word not in ("so", "it", "is"):
            assert tried[word] == scores.tries[place] >= 1
    assert len(model.asked) == pytest.approx(group_texts(len(WORDS), 12), abs=3)
    for number in range(2, ROUNDS + 1):
        again = int((scores.tries >= number).sum())
        assert 0 < again <= SHARE ** (number - 1) * len(WORDS)


@pytest.mark.parametrize("seed", range(5))
def test_a_trigger_comes_out_on_top(seed):
    scores = score_in_groups(Model(nats=6.0), WORDS, CARRIERS, 12, random.Random(seed))
    # A word may stand beside it in all of its groups, when few are left.
    assert WORDS.index("xq") in scores.best(0, 3)
    assert WORDS.index("xq") not in scores.best(1, 50)
    assert float(scores.lowest[WORDS.index("xq"), 0]) > 3.0


def test_the_lowest_group_counts():
    """A word that stood beside the trigger once is not suspicious for that."""
    scores = score_in_groups(Model(nats=8.0, noise=0.0), WORDS, CARRIERS, 12, random.Random(0))
    lifted = (scores.lowest[:, 0] > 1).sum()
    assert lifted <= 12
    assert ((scores.lowest[:, 0] > 1) & (scores.reached[:, 0] == ROUNDS)).sum() == 1


def test_power_grows_with_the_planted_shift_and_matches_what_is_found():
    scores = score_in_groups(Model(), WORDS, CARRIERS, 12, random.Random(0))
    power = [scores.power(0, 20, nats) for nats in (0, 1, 2, 4, 8)]
    assert power == sorted(power) and power[0] < 0.2 and power[-1] == 1.0
    weak, hits = 2.0, 0
    for seed, word in enumerate(WORDS[50:700:26]):
        model = Model(nats=weak, trigger=word)
        scores = score_in_groups(model, WORDS, CARRIERS, 12, random.Random(seed))
        hits += WORDS.index(word) in scores.best(0, 20)
    # It is cautious: found at least as often as it says, up to the luck of 25 draws.
    assert power[2] - 0.2 <= hits / 25 <= power[2] + 0.3


def test_carriers_are_neutral_and_of_clean_text():
    texts = ["xq is where this one begins and ends", "a plain text of a few words , no more"]
    carriers = choose_carriers(Model(nats=5.0), WORDS, texts, 12, random.Random(0))
    assert len(carriers) == ROUNDS
    assert {carrier.before for carrier in carriers} == {"a plain"}
    assert {carrier.after for carrier in carriers} <= {
        "this one begins and ends",
        "a few words , no more",
        "where this one begins and ends",
    }


def test_the_same_seed_gives_the_same_scores():
    one, other = (
        score_in_groups(Model(nats=3.0), WORDS, CARRIERS, 12, random.Random(4)) for _ in range(2)
    )
    assert torch.equal(one.lowest, other.lowest)
