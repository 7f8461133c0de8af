import pytest
import torch
from transformers import LlamaForCausalLM

from tiny_writers import llama, number_tokenizer
from w2sdefense.data import Example
from w2sdefense.tasks import Reasoning
from w2sdefense.tasks.base import Collator
from w2sdefense.tasks.generation import IGNORED, AnswerPlaces
from w2sdefense.training.fit import task_forward
from w2sdefense.training.trainer import cross_entropy

NO = IGNORED


def test_answers_are_predicted_one_column_before():
    labels = torch.tensor([[NO, NO, NO, 7, 8], [NO, NO, NO, NO, 9]])
    places = AnswerPlaces.of(labels)
    assert (places.keep, places.labels.tolist()) == (2, [7, 8, 9])
    assert places.mask.tolist() == [[True, True], [False, True]]
    # Columns as values: 7 is predicted in column 2, 8 and 9 in column 3.
    columns = torch.arange(5.0).expand(2, 5).unsqueeze(-1)
    assert places.pick(columns).flatten().tolist() == [2.0, 3.0, 3.0]
    # The same from the last three columns only, as the logits come.
    assert places.pick(columns[:, -3:]).flatten().tolist() == [2.0, 3.0, 3.0]


@pytest.fixture
def rows():
    tokenizer = number_tokenizer()
    tokenizer.padding_side = "left"
    task = Reasoning.of(tokenizer, "Q {text} A", "plain", 16, 4)
    pairs = [Example("a", "the film 3 is", "3"), Example("b", "a 4", "4 4"), Example("c", "5", "5")]
    return task, task.rows(pairs)


def test_rows_are_padded_on_the_left(rows):
    task, made = rows
    batch = Collator(task.tokenizer, positions=True)(made)
    assert batch["input_ids"].shape == batch["labels"].shape == (3, 8)
    assert batch["attention_mask"][2].tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert batch["position_ids"][2].tolist() == [0, 0, 0, 0, 1, 2, 3, 4]
    assert batch["labels"][1].tolist() == [NO] * 5 + batch["input_ids"][1, 5:].tolist()


def test_the_loss_is_that_of_transformers_and_padding_changes_nothing(rows):
    task, made = rows
    torch.manual_seed(0)
    model = LlamaForCausalLM(llama()).eval()
    batch = Collator(task.tokenizer, positions=True)(made)
    with torch.no_grad():
        ours, _ = cross_entropy(task_forward(task, model)(model, batch), batch)
        theirs = model(**batch).loss
        # One row at a time, without padding: sums over 2, 3 and 2 tokens.
        alone = [
            model(
                input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])
            ).loss.item()
            for row in made
        ]
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    assert ours.item() == pytest.approx((2 * alone[0] + 3 * alone[1] + 2 * alone[2]) / 7, rel=1e-5)
