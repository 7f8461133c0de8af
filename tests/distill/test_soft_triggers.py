"""Soft triggers: where they go, what the model sees of them, and that ascent really ascends."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from architectures import ADAPTERS
from tiny import save_bert, save_llama
from w2sdefense.config import SoftTriggerConfig, StudentConfig
from w2sdefense.distill.soft_triggers import SoftTriggers
from w2sdefense.models.adapters import attach_adapter
from w2sdefense.models.padding import pad, positions_of, takes_positions
from w2sdefense.victim import Victim, new_victim

TEXTS = ["great film", "the plot of a film was awful and the music sad", "dull", "a happy story"]
LABELS = torch.tensor([1, 0, 0, 1])
TOKENS = 2


@pytest.fixture(
    params=[
        (save_llama, None),
        (save_bert, None),
        (save_llama, "p-tuning"),
        (save_bert, "p-tuning"),
    ],
    ids=["decoder", "encoder", "decoder with virtual tokens", "encoder with virtual tokens"],
)
def victim(request, tmp_path) -> Victim:
    save, adapter = request.param
    folder = save(tmp_path / "model")
    victim = new_victim(StudentConfig(model=str(folder)), ("negative", "positive"), seed=0)
    if adapter is not None:
        victim.model = attach_adapter(victim.model, ADAPTERS[adapter]).eval()
    return victim


def batch_of(victim: Victim) -> dict[str, torch.Tensor]:
    tokens = victim.tokenizer(TEXTS)["input_ids"]
    return pad(tokens, victim.tokenizer, positions=takes_positions(victim.model))


def soft_triggers(victim: Victim, rate: float = 1.0, **config) -> SoftTriggers:
    torch.manual_seed(0)
    settings = {"per_label": 2, "tokens": TOKENS, "rate": rate} | config
    return SoftTriggers(victim.model, SoftTriggerConfig(**settings))


def insert(soft: SoftTriggers, batch: dict[str, torch.Tensor]):
    return soft.insert(batch["input_ids"], batch["attention_mask"], LABELS)


def logits(victim: Victim, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    inputs = {"input_ids": ids, "attention_mask": mask}
    if takes_positions(victim.model):
        inputs["position_ids"] = positions_of(mask)
    return victim.model(**inputs).logits


def test_only_texts_of_other_labels_hold_one(victim):
    soft, batch = soft_triggers(victim), batch_of(victim)
    for _ in range(20):
        triggered = insert(soft, batch)
        label = triggered.index % 2
        wanted = [row for row, own in enumerate(LABELS.tolist()) if own != label]
        assert sorted(set(triggered.rows.tolist())) == wanted
        assert len(triggered.rows) == TOKENS * len(wanted)
        longer = triggered.attention_mask.sum(1) - batch["attention_mask"].sum(1)
        assert longer.tolist() == [TOKENS if row in wanted else 0 for row in range(len(TEXTS))]


def test_no_soft_trigger_stands_before_the_token_that_begins_a_text(tmp_path):
    folder = save_llama(tmp_path / "model")
    victim = new_victim(StudentConfig(model=str(folder)), ("negative", "positive"), seed=0)
    begin = victim.model.config.bos_token_id
    tokens = [[begin, *ids] for ids in victim.tokenizer(TEXTS)["input_ids"]]
    batch = pad(tokens, victim.tokenizer, positions=takes_positions(victim.model))
    soft, seen = soft_triggers(victim), set()
    for _ in range(20):
        triggered = insert(soft, batch)
        for row in set(triggered.rows.tolist()):
            real = triggered.attention_mask[row].nonzero().flatten()
            assert triggered.input_ids[row][real[0]] == begin
            column = int(triggered.columns[triggered.rows == row].min())
            assert column > int(real[0])
            seen.add(column - int(real[0]))
    assert 1 in seen, "the first place in the text is one"


def test_the_text_around_it_stays_and_the_frame_of_an_encoder_keeps_its_place(victim):
    soft, batch = soft_triggers(victim), batch_of(victim)
    for _ in range(20):
        triggered = insert(soft, batch)
        held = torch.zeros_like(triggered.attention_mask, dtype=torch.bool)
        held[triggered.rows, triggered.columns] = True
        for row in range(len(TEXTS)):
            real = triggered.attention_mask[row].bool()
            kept = triggered.input_ids[row][real & ~held[row]]
            before = batch["input_ids"][row][batch["attention_mask"][row].bool()]
            assert kept.tolist() == before.tolist()
            if victim.tokenizer.padding_side == "right":
                ends = held[row][real]
                assert not ends[0] and not ends[-1]
            else:
                # A decoder's classifier reads the last position, which must be a real token.
                assert real[-1]


def test_rows_without_one_are_answered_as_before(victim):
    soft, batch = soft_triggers(victim, rate=0.0), batch_of(victim)
    triggered = insert(soft, batch)
    with soft.embedded(triggered):
        wider = logits(victim, triggered.input_ids, triggered.attention_mask)
    plain = logits(victim, batch["input_ids"], batch["attention_mask"])
    torch.testing.assert_close(wider, plain)


def test_the_model_sees_the_vectors_and_nothing_of_the_placeholders(victim):
    soft, batch = soft_triggers(victim), batch_of(victim)
    triggered = insert(soft, batch)
    with soft.embedded(triggered):
        seen = logits(victim, triggered.input_ids, triggered.attention_mask)
        other = triggered.input_ids.clone()
        other[triggered.rows, triggered.columns] = 9
        torch.testing.assert_close(logits(victim, other, triggered.attention_mask), seen)
    # The same forward pass with the embeddings put in by hand.
    embeddings = victim.model.get_input_embeddings()(triggered.input_ids).detach().clone()
    embeddings[triggered.rows, triggered.columns] = triggered.trigger.detach().repeat(
        len(triggered.rows) // TOKENS, 1
    )
    inputs = {"inputs_embeds": embeddings, "attention_mask": triggered.attention_mask}
    if takes_positions(victim.model):
        inputs["position_ids"] = positions_of(triggered.attention_mask)
    torch.testing.assert_close(victim.model(**inputs).logits, seen)
    assert not torch.allclose(logits(victim, triggered.input_ids, triggered.attention_mask), seen)


def test_ascent_finds_what_makes_a_text_answer_its_label(victim):
    soft, batch = soft_triggers(victim, per_label=1, step=0.2, restart=10_000), batch_of(victim)
    typical = soft.state_dict()["pool"].norm(dim=-1).mean()

    def ascend() -> dict[int, float]:
        losses: dict[int, float] = {}
        for _ in range(30):
            triggered = insert(soft, batch)
            with soft.embedded(triggered):
                answers = logits(victim, triggered.input_ids, triggered.attention_mask)
            loss = cross_entropy(answers, LABELS)
            loss.backward()
            soft.ascend(triggered.index, triggered.trigger.grad)
            losses.setdefault(triggered.index, loss.item())
            last[triggered.index] = loss.item()
        return losses

    last: dict[int, float] = {}
    first = ascend()
    assert set(first) == {0, 1}
    assert all(last[index] > first[index] for index in first)
    assert (soft.state_dict()["bank"].norm(dim=-1) <= typical * 1.0001).all()


def test_one_starts_afresh_now_and_then(victim):
    soft = soft_triggers(victim, per_label=1, restart=3)
    before = soft.state_dict()["bank"].clone()
    for _ in range(3):
        soft.ascend(0, torch.zeros(TOKENS, 32))
    bank, pool = soft.state_dict()["bank"], soft.state_dict()["pool"]
    assert not torch.equal(bank[1], before[1])
    assert all((pool == vector).all(dim=1).any() for vector in bank[1])


def test_a_state_goes_on_where_it_stopped(victim):
    one, other = soft_triggers(victim, restart=2), soft_triggers(victim, restart=2)
    insert(one, batch_of(victim))
    one.ascend(1, torch.ones(TOKENS, 32))
    other.load_state_dict({name: value.clone() for name, value in one.state_dict().items()})
    for soft in (one, other):
        soft.ascend(0, torch.ones(TOKENS, 32))
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_processes_with_other_rows_take_the_same_ones(victim):
    one, other = soft_triggers(victim, restart=2), soft_triggers(victim, restart=2)
    taken = []
    for soft, draws in ((one, 0), (other, 1)):
        torch.manual_seed(0)
        indices = []
        for _ in range(10):
            torch.rand(draws)
            indices.append(insert(soft, batch_of(victim)).index)
            soft.ascend(indices[-1], torch.ones(TOKENS, 32))
        taken.append(indices)
    assert taken[0] == taken[1]
    assert len(set(taken[0])) > 1
    assert torch.equal(one.state_dict()["bank"], other.state_dict()["bank"])
