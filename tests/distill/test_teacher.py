"""The teacher: kept whole, found again by what made it, and asked only once."""

from dataclasses import replace

import pytest
import torch

from architectures import TEACHERS, make
from making import reviews
from w2sdefense.config import TeacherConfig
from w2sdefense.data import Dataset
from w2sdefense.distill.fit_teacher import LabelTeacherJob, fit_or_load_teacher, fit_teacher
from w2sdefense.distill.targets import teacher_targets
from w2sdefense.distill.teacher import LabelTeacher, load_teacher
from w2sdefense.errors import ConfigError, ModelError
from w2sdefense.models.load import load_backbone
from w2sdefense.models.weights import weights_fingerprint

pytestmark = pytest.mark.slow

WIDTH = 48


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Dataset:
    return reviews(tmp_path_factory.mktemp("d") / "d", train=32, validation=8, test=8)


@pytest.fixture(params=TEACHERS)
def teacher(request) -> LabelTeacher:
    backbone, tokenizer, _ = make(request.param, "Model")
    teacher = LabelTeacher(backbone, tokenizer, WIDTH, 2, max_length=10, relu=True)
    for parameter in teacher.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return teacher.eval()


@pytest.fixture
def forward_calls(monkeypatch) -> list[int]:
    """Sizes of the batches that any teacher was run on."""
    calls: list[int] = []
    forward = LabelTeacher.forward

    def counted(self, **inputs):
        calls.append(len(inputs["input_ids"]))
        return forward(self, **inputs)

    monkeypatch.setattr(LabelTeacher, "forward", counted)
    return calls


def alone(teacher: LabelTeacher, text: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and h_t of one text, from the parts of the teacher and without any padding."""
    ids = teacher.tokenizer(text, truncation=True, max_length=10, return_tensors="pt")["input_ids"]
    position = 0 if teacher.tokenizer.padding_side == "right" else -1
    with torch.no_grad():
        feature = teacher.g(teacher.backbone(input_ids=ids).last_hidden_state[0, position])
        return teacher.classifier(feature.relu()), feature


@pytest.mark.parametrize("name", TEACHERS)
def test_all_parameters_are_trained(name, data, tmp_path):
    backbone, tokenizer, _ = make(name, "Model")
    for part in (backbone, tokenizer):
        part.save_pretrained(tmp_path / "model")
    config = TeacherConfig(model=str(tmp_path / "model"), epochs=2, max_length=24)
    fitted = fit_teacher(LabelTeacherJob(config, data, WIDTH), tmp_path / "run").state_dict()
    before = backbone.state_dict()
    # BERT's pooler is not part of a teacher, nor are buffers trained.
    trained = [n for n, _ in backbone.named_parameters() if "pooler" not in n]
    assert len(trained) > 20
    assert [n for n in trained if torch.equal(before[n], fitted[f"backbone.{n}"])] == []


def test_targets_are_those_of_every_text_alone(teacher, data, tmp_path):
    targets = teacher_targets(teacher, data.train, tmp_path)
    assert targets.logits.shape == (32, 2)
    assert targets.features.shape == (32, WIDTH)
    assert targets.features.min() < 0, "kept before the ReLU"
    for row, example in enumerate(data.train):
        logits, feature = alone(teacher, example.text)
        torch.testing.assert_close(targets.logits[row], logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(targets.features[row], feature, rtol=1e-4, atol=1e-4)


def test_the_teacher_is_asked_once(teacher, data, tmp_path, forward_calls):
    first = teacher_targets(teacher, data.train, tmp_path)
    assert sum(forward_calls) == len(data.train)
    forward_calls.clear()
    second = teacher_targets(teacher, data.train, tmp_path)
    assert forward_calls == []
    assert torch.equal(first.logits, second.logits)
    assert torch.equal(first.features, second.features)
    for path in tmp_path.iterdir():
        path.write_bytes(b"half")
    assert torch.equal(first.logits, teacher_targets(teacher, data.train, tmp_path).logits)


def test_what_else_is_asked_is_kept_elsewhere(teacher, data, tmp_path):
    def files() -> int:
        return len(list(tmp_path.iterdir()))

    teacher_targets(teacher, data.train, tmp_path)
    teacher_targets(teacher, data.train[::-1], tmp_path)
    assert files() == 2
    teacher.max_length = 5
    teacher_targets(teacher, data.train, tmp_path)
    assert files() == 3
    with torch.no_grad():
        teacher.g.bias[0] += 1e-3
    before = teacher_targets(teacher, data.train, tmp_path).features
    assert files() == 4
    with torch.no_grad():
        teacher.g.bias[0] += 1
    after = teacher_targets(teacher, data.train, tmp_path).features
    torch.testing.assert_close((after - before)[:, 0], torch.ones(32))


def test_a_saved_teacher_gives_equal_outputs(teacher, data, tmp_path):
    teacher.save(tmp_path / "kept")
    again = load_teacher(tmp_path / "kept")
    assert (again.max_length, again.relu) == (10, True)
    assert again.tokenizer.padding_side == teacher.tokenizer.padding_side
    assert weights_fingerprint(again) == weights_fingerprint(teacher)
    one = teacher_targets(teacher, data.test, tmp_path / "a")
    other = teacher_targets(again, data.test, tmp_path / "b")
    assert torch.equal(one.logits, other.logits)
    assert torch.equal(one.features, other.features)


@pytest.mark.parametrize("name", ["teacher.safetensors", "teacher.json", "config.json", None])
def test_a_broken_or_missing_teacher_is_refused_with_a_way_out(teacher, tmp_path, name):
    if name is not None:
        teacher.save(tmp_path / "kept")
        (tmp_path / "kept" / name).write_bytes(b"{\xff")
    with pytest.raises(ModelError, match="holds no teacher that can be opened") as caught:
        load_teacher(tmp_path / "kept")
    assert "w2s teach" in caught.value.fix


def test_the_pooler_is_not_trained_along(tiny_bert):
    # It gets no gradient, and DDP would wait for it.
    backbone, tokenizer = load_backbone(str(tiny_bert))
    teacher = LabelTeacher(backbone, tokenizer, WIDTH, 2, 10)
    batch = tokenizer(["the great film"], return_tensors="pt")
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    teacher(**inputs).logits.sum().backward()
    assert [name for name, p in teacher.named_parameters() if p.grad is None] == []


# Fitting


@pytest.fixture
def config(tiny_bert) -> TeacherConfig:
    return TeacherConfig(
        model=str(tiny_bert), epochs=2, learning_rate=1e-3, batch_size=8, max_length=24
    )


def test_a_teacher_learns(tiny_bert, tmp_path):
    data = reviews(tmp_path / "d", train=200, validation=40, test=60, seed=3)
    config = TeacherConfig(
        model=str(tiny_bert), epochs=4, learning_rate=3e-3, batch_size=16, max_length=24
    )
    teacher = fit_or_load_teacher(LabelTeacherJob(config, data, WIDTH), tmp_path / "t")
    answers = teacher_targets(teacher, data.test, tmp_path / "c").logits.argmax(-1)
    right = sum(a == e.label for a, e in zip(answers.tolist(), data.test, strict=True))
    assert right >= 57
    assert not list((tmp_path / "t").rglob("checkpoint-*"))


def test_the_fitted_teacher_is_found_again(config, data, tmp_path, forward_calls):
    first = fit_or_load_teacher(LabelTeacherJob(config, data, WIDTH), tmp_path)
    assert forward_calls
    forward_calls.clear()
    again = fit_or_load_teacher(LabelTeacherJob(config, data, WIDTH), tmp_path)
    assert forward_calls == []
    assert weights_fingerprint(again) == weights_fingerprint(first)


OTHER = {
    "config": "(seed 0 instead of 1)",
    "train": "(training rows)",
    "validation": "(validation rows)",
    "width": "(width of the student)",
    "relu": "(alignment)",
}


@pytest.mark.parametrize("change", OTHER)
def test_a_teacher_of_other_settings_is_replaced_only_if_that_is_said(
    config, data, tmp_path, forward_calls, change
):
    fit_or_load_teacher(LabelTeacherJob(config, data, WIDTH), tmp_path)
    forward_calls.clear()
    settings = {"config": config, "data": data, "width": WIDTH, "relu": False}
    settings |= {
        "config": {"config": config.model_copy(update={"seed": 1})},
        "train": {"data": replace(data, train=data.train[:-1])},
        "validation": {"data": replace(data, validation=data.validation[:-1])},
        "width": {"width": WIDTH + 1},
        "relu": {"relu": True},
    }[change]
    job = LabelTeacherJob(**settings)
    with pytest.raises(ConfigError, match="a teacher with other settings") as caught:
        fit_or_load_teacher(job, tmp_path)
    assert OTHER[change] in caught.value.problem
    assert forward_calls == []
    assert load_teacher(tmp_path).g.out_features == WIDTH
    teacher = fit_or_load_teacher(job, tmp_path, run_folder=tmp_path)
    assert forward_calls
    assert (teacher.g.out_features, teacher.relu) == (job.width, job.relu)
    assert weights_fingerprint(load_teacher(tmp_path)) == weights_fingerprint(teacher)


def test_fresh_layers_have_a_rate_of_their_own(config, data, tmp_path):
    # A rate of next to nothing for the transformer: only g and the classifier move.
    slow = config.model_copy(update={"learning_rate": 1e-30, "head_learning_rate": 1e-2})
    backbone, _ = load_backbone(config.model)
    teacher = fit_or_load_teacher(LabelTeacherJob(slow, data, WIDTH), tmp_path)
    moved = {
        name: (value - backbone.state_dict()[name]).abs().max().item()
        for name, value in teacher.backbone.state_dict().items()
    }
    assert max(moved.values()) < 1e-6
    still = slow.model_copy(update={"head_learning_rate": 1e-30})
    unmoved = fit_or_load_teacher(LabelTeacherJob(still, data, WIDTH), tmp_path / "still")
    for layer in ("g", "classifier"):
        step = getattr(teacher, layer).weight - getattr(unmoved, layer).weight
        assert step.abs().max() > 1e-3
