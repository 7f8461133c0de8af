"""PSIM: the threshold by hand, and on a tiny model: what a copy with random labels is sure of."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertForSequenceClassification

from making import as_victim
from tiny import BERT, word_tokenizer
from w2sdefense.config import TrainingConfig
from w2sdefense.data.types import REFUSED
from w2sdefense.defenses.psim import Psim, PsimConfig, choose_threshold
from w2sdefense.errors import ConfigError

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("max_loss", "threshold"),
    # 0.9 is a wrong answer: to refuse it costs nothing. One of five may be lost: that is 0.8.
    [(0.0, 0.8), (0.2, 0.7), (0.39, 0.7), (0.4, 0.6), (1.0, 0.0)],
)
def test_the_threshold_by_hand(max_loss, threshold):
    sure, correct = [0.6, 0.9, 0.8, 0.5, 0.7], [True, False, True, True, True]
    assert choose_threshold(sure, correct, max_loss) == threshold


@given(st.lists(st.tuples(st.floats(0.5, 1.0), st.booleans()), min_size=1), st.floats(0.0, 1.0))
def test_no_more_is_lost_than_allowed_and_no_lower_threshold_would_do(pairs, max_loss):
    sure, correct = [c for c, _ in pairs], [ok for _, ok in pairs]
    threshold = choose_threshold(sure, correct, max_loss)

    def lost(limit):
        return sum(ok and c > limit for c, ok in pairs)

    assert lost(threshold) <= max_loss * len(pairs) + 1e-9
    lower = [c for c in sure if c < threshold]
    if lower:
        assert lost(max(lower)) > max_loss * len(pairs) - 1


def test_the_copy_forgets_and_the_victim_does_not(victim, kit, accuracy):
    before = {name: value.clone() for name, value in victim.model.state_dict().items()}
    alone = victim.predict([example.text for example in kit.data.test])
    defense = Psim(
        PsimConfig(max_loss=0.1, epochs=1, learning_rate=3e-3),
        TrainingConfig(epochs=99, batch_size=16),
    )
    guarded = defense.apply(victim, kit)
    assert all(torch.equal(v, before[n]) for n, v in victim.model.state_dict().items())
    assert accuracy(guarded) >= accuracy(victim) - 0.1
    found = guarded.found
    assert 0.5 <= found["psim_threshold"] < 1.0
    assert 1 <= found["psim_validation_refused"] <= found["psim_validation_texts"] == 60
    assert guarded.history[-1]["epoch"] == 1
    answers = guarded.predict([example.text for example in kit.data.test])
    for answer, own in zip(answers, alone, strict=True):
        assert answer.answer in (own.answer, REFUSED)
        assert answer.probabilities == pytest.approx(own.probabilities, abs=1e-5)


def test_random_labels_take_the_confidence_away(victim, kit, monkeypatch):
    seen = {}

    def keep(sure, correct, max_loss):
        seen["sure"] = sure
        return 1.0

    monkeypatch.setattr("w2sdefense.defenses.psim.choose_threshold", keep)
    Psim(PsimConfig(epochs=5, learning_rate=3e-2)).apply(victim, kit)
    texts = [example.text for example in kit.data.validation]
    own = [max(answer.probabilities) for answer in victim.predict(texts)]
    assert sum(seen["sure"]) / 60 < sum(own) / 60 - 0.15


def test_virtual_tokens_that_the_model_has_no_positions_for(kit):
    model = BertForSequenceClassification(BERT)
    names = kit.data.label_names
    with pytest.raises(ConfigError, match="64 and 5 beside it") as caught:
        Psim().apply(as_victim(model, word_tokenizer(encoder=True), names, 64), kit)
    assert "--max-length 59 " in caught.value.fix
