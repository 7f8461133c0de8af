import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from architectures import make
from tiny_writers import VOCABULARY, llama, number_tokenizer, save_writer
from w2sdefense.distill.targets import LiveTargets
from w2sdefense.distill.teacher import TokenTeacher, load_teacher, open_token_teacher, output_map
from w2sdefense.errors import ModelError
from w2sdefense.models.load import load_causal_lm
from w2sdefense.tasks.generation import Generation

pytestmark = pytest.mark.slow

IDS = torch.tensor([[4, 13, 14, 8, 15, 5]])
MASK = torch.ones_like(IDS)


@pytest.fixture(scope="module")
def prompt() -> Generation:
    return Generation.of(number_tokenizer(), "Q {text} A", "plain", 24, 3)


@pytest.fixture(scope="module")
def student():
    torch.manual_seed(5)
    return LlamaForCausalLM(llama()).get_output_embeddings()


def test_the_map_between_output_layers_by_hand():
    # The teacher's output is the student's first column doubled; the last row is padding.
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    teacher = torch.tensor([[2.0], [0.0], [2.0], [99.0]])
    assert output_map(student, teacher).tolist() == [[pytest.approx(2.0)], [pytest.approx(0.0)]]


def test_what_the_students_output_layer_reads_is_what_the_teacher_says():
    torch.manual_seed(0)
    student, turn = torch.randn(50, 8), torch.randn(8, 5)
    teacher = student @ turn
    assert torch.allclose(output_map(student, teacher), turn, atol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
def test_a_teacher_starts_as_the_model_it_was(tmp_path, prompt, student, tied):
    config = llama(16, padding=3, tie_word_embeddings=tied)
    folder = save_writer(tmp_path / "small", config, seed=1)
    teacher = open_token_teacher(str(folder), prompt.tokenizer, student).eval()
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        said = teacher(input_ids=IDS, attention_mask=MASK, logits_to_keep=2)
        expected = model(IDS).logits
    assert said.logits.shape == (1, 2, len(VOCABULARY) + 3)
    assert torch.allclose(said.logits, expected[:, -2:], atol=1e-4)
    assert said.features.shape == (1, 2, 32)
    assert (teacher.output is None) is tied


def test_a_copy_of_the_student_speaks_of_the_same_features(tmp_path, prompt):
    folder = save_writer(tmp_path / "same", llama())
    model, _ = load_causal_lm(str(folder))
    teacher = open_token_teacher(str(folder), prompt.tokenizer, model.get_output_embeddings())
    assert torch.allclose(teacher.g.weight, torch.eye(32), atol=1e-3)


@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_teacher_says_the_same(tmp_path, prompt, student, tied):
    folder = save_writer(tmp_path / "small", llama(16, tie_word_embeddings=tied), seed=1)
    teacher = open_token_teacher(str(folder), prompt.tokenizer, student).eval()
    teacher.save(tmp_path / "teacher")
    again = load_teacher(tmp_path / "teacher")
    with torch.no_grad():
        assert torch.equal(
            again(input_ids=IDS, attention_mask=MASK).logits,
            teacher(input_ids=IDS, attention_mask=MASK).logits,
        )


def test_another_vocabulary_is_refused(tmp_path, prompt, student, tiny_llama):
    with pytest.raises(ModelError, match="another vocabulary") as caught:
        open_token_teacher(str(tiny_llama), prompt.tokenizer, student)
    assert "--teacher-model" in caught.value.fix


def test_a_teacher_counts_positions_without_padding():
    # GPT-2 has learned positions: a shift by padding would show.
    backbone, _, _ = make("gpt2", "Model")
    targets = LiveTargets(TokenTeacher(backbone, 32, vocabulary=8), None)
    ids, labels = torch.tensor([[7, 8, 9, 10]]), torch.tensor([[-100, -100, 3, 4]])
    alone = {"clean_input_ids": ids, "clean_attention_mask": torch.ones_like(ids)}
    padded = {name: torch.nn.functional.pad(value, (3, 0)) for name, value in alone.items()}
    ours = targets.output({**alone, "labels": labels})
    theirs = targets.output({**padded, "labels": labels})
    torch.testing.assert_close(ours.logits, theirs.logits)
    torch.testing.assert_close(ours.features, theirs.features)
