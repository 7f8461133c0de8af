"""The benchmark of the training step counts right and reports everything; no time is asserted."""

import copy
import io
import json
import random

import pytest
import torch
import typer
from peft import LoraConfig, get_peft_model
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaForSequenceClassification
from typer.testing import CliRunner

import train_step
from arms import ARMS, Batch, LibraryArm, LoopArm, Workload
from flops import matmul_speed, product_shapes, training_flops
from tiny import FILLERS, LLAMA
from train_step import RATIOS
from w2sdefense.config import DistillConfig
from w2sdefense.data import Example
from w2sdefense.distill.losses import TeacherOutput, w2s_loss
from w2sdefense.tasks import Output

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workload(tiny_llama, tiny_bert) -> Workload:
    draw = random.Random(0)
    texts = [" ".join(draw.choices(FILLERS, k=draw.randint(2, 9))) for _ in range(10)]
    return Workload(
        tuple(Example(str(i), text, i % 2) for i, text in enumerate(texts)),
        ("negative", "positive"),
        student=str(tiny_llama),
        teacher=str(tiny_bert),
        batch_size=4,
        lora_r=2,
    )


def classifier(**changes) -> LlamaForSequenceClassification:
    config = type(LLAMA)(**LLAMA.to_dict() | {"pad_token_id": 0, **changes})
    return LlamaForSequenceClassification(config)


def counted(student, ids: torch.Tensor) -> int:
    """Operations of one step as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        student(input_ids=ids, labels=torch.zeros(len(ids), dtype=torch.long)).loss.backward()
    return counter.get_total_flops()


def adapted(**changes):
    # Eager attention is plain products, which the counter sees; a fused kernel it may not know.
    model = classifier(num_labels=3, attn_implementation="eager", **changes)
    config = LoraConfig(task_type="SEQ_CLS", r=4, lora_dropout=0.1, target_modules="all-linear")
    return get_peft_model(model, config).train()


@pytest.mark.parametrize("changes", [{}, {"head_dim": 16, "num_hidden_layers": 3}], ids=str)
@pytest.mark.parametrize("width", [7, 40])
def test_the_formula_is_what_torch_counts(changes, width):
    student = adapted(**changes)
    ids = torch.randint(4, 60, (5, width))
    # Not to the last digit: some releases compute the rotary angles, once per step, as a product.
    assert training_flops(student).of([width] * 5) == pytest.approx(counted(student, ids), rel=1e-3)


def test_the_formula_refuses_a_model_that_it_does_not_hold_for():
    config = LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["q_proj", "v_proj"])
    with pytest.raises(ValueError, match="every linear layer"):
        training_flops(get_peft_model(classifier(), config))


def test_products_are_measured_in_the_shapes_that_occur():
    shapes = product_shapes(adapted(), tokens=100)
    assert (2048, 2048, 2048) in shapes
    assert {(100, 32, 64), (100, 32, 4), (100, 4, 64)} <= set(shapes)
    assert matmul_speed((4, 4, 4), seconds=0.0) > 0


@pytest.mark.parametrize("name", list(ARMS))
def test_every_arm_trains_on_every_text_once(name, workload, tmp_path):
    arm = ARMS[name](workload, tmp_path)
    before = copy.deepcopy(arm.model.state_dict())
    batches: list[Batch] = []
    arm.epoch(0, batches.append)
    tokens = sorted(length for batch in batches for length in batch.lengths)
    assert tokens == sorted(arm.lengths)
    assert all(batch.width == max(batch.lengths) for batch in batches)
    after = arm.model.state_dict()
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert changed and all("lora_" in key or "score" in key for key in changed)


def test_the_arms_of_the_library_see_the_same_batches(workload, tmp_path):
    seen = {}
    for teacher in (True, False):
        seen[teacher] = []
        arm = LibraryArm(workload, tmp_path / str(teacher), teacher=teacher)
        arm.epoch(3, seen[teacher].append)
    assert seen[True] == seen[False]


def test_the_loop_minimizes_the_loss_of_the_library(workload):
    loop = LoopArm(workload)
    loop.model.eval()
    rows = slice(0, 4)
    ours = loop.loss(rows, lambda batch: None)
    texts = [example.text for example in workload.examples[rows]]
    labels = torch.tensor([example.label for example in workload.examples[rows]])
    student = loop._tokenizer(texts, padding=True, return_tensors="pt")
    output = loop.model(**student, output_hidden_states=True)
    states = output.hidden_states[-1]
    teacher = loop.teacher.tokenizer(texts, padding=True, return_tensors="pt")
    guide = loop.teacher(input_ids=teacher["input_ids"], attention_mask=teacher["attention_mask"])
    parts = w2s_loss(
        Output(output.logits, states[:, -1], labels, states),
        TeacherOutput(guide.logits, guide.features),
        DistillConfig(),
    )
    torch.testing.assert_close(ours, parts.total)


@pytest.fixture(scope="module")
def summary(workload, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    texts = []
    measured = train_step.Measured(help_seconds=[0.2, 0.4, 0.3])
    measured.arms, measured.products = train_step.measure_rounds(
        workload, 2, folder, texts.append, product_seconds=0.0
    )
    assert sum(texts) == len(ARMS) * (8 + 2 * 10)
    return train_step.summarize(measured, workload)


def test_the_report_has_every_ratio(summary):
    whole = json.loads(json.dumps(summary))
    assert set(whole["ratios"]) == {f"{one}_over_{other}" for one, other in RATIOS}
    for ratio in whole["ratios"].values():
        assert set(ratio) == {"epoch", "end_to_end", "epoch_cpu"}
        for spread in ratio.values():
            assert 0 < spread["min"] <= spread["median"] <= spread["max"]
    assert set(whole["aims"]) == set(train_step.AIMS)
    assert whole["settings"]["rounds"] == 2
    assert whole["help_seconds"] == {"min": 0.2, "median": 0.3, "max": 0.4}
    assert whole["aims"]["help_seconds"] == {
        "what": "w2s --help, seconds",
        "aim": "at most 0.5",
        "reached": 0.3,
        "met": True,
    }


def test_the_report_counts_padding(summary):
    arms = summary["arms"]
    assert set(arms) == {"w2s", "lora", "loop"}
    tokens = {arm["tokens_per_epoch"] for arm in arms.values()}
    assert len(tokens) == 1
    for arm in arms.values():
        share = arm["share_of_peak"]
        assert share["texts_only"]["median"] <= share["with_padding"]["median"]
        padded = arm["tokens_per_epoch_with_padding"]
        assert arm["padding_share"] == pytest.approx(1 - tokens.copy().pop() / padded, abs=1e-3)
    assert arms["w2s"]["padding_share"] == arms["lora"]["padding_share"]


def test_end_to_end_time_counts_one_time_work_once():
    timings = train_step.Timings(5.0, flops=None, seconds=[1.0, 2.0])
    assert timings.end_to_end() == [10.0, 15.0]


def test_the_tables_show_every_arm_and_aim(summary):
    console = Console(width=200, record=True, file=io.StringIO())
    train_step.show(summary, console)
    text = console.export_text()
    for name in ("w2s / lora", "w2s / loop", "lora / loop", "w2s --help", "at least 0.7"):
        assert name in text


def test_the_command_writes_what_it_shows(workload, tmp_path, monkeypatch):
    monkeypatch.setattr(train_step, "_quiet_libraries", lambda: None)
    monkeypatch.setattr(train_step, "measure_help", lambda: [0.3])
    rows = [{"text": e.text, "label": e.label} for e in workload.examples * 4]
    lines = [json.dumps(row | {"text": f"{row['text']} {i}"}) for i, row in enumerate(rows)]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    output = tmp_path / "results" / "train_step.json"
    app = typer.Typer()
    app.command()(train_step.main)
    result = CliRunner().invoke(
        app,
        f"--dataset {tmp_path} --student {workload.student} --teacher {workload.teacher} "
        f"--texts 9 --batch-size 4 --rounds 1 --no-memory --output {output}",
        catch_exceptions=False,
    )
    assert "w2s / loop" in result.stdout
    written = json.loads(output.read_text())
    assert written["settings"]["texts"] == 9
    assert {"load_before", "load_after", "cpu", "cores", "threads"} <= set(written["machine"])
    assert "torch" in written["versions"]


def test_memory_is_that_of_a_process_of_its_own(workload, tmp_path, monkeypatch):
    monkeypatch.setattr(train_step, "ARMS", {"lora": ARMS["lora"]})
    (peaks,) = train_step.measure_memory(workload, tmp_path).values()
    assert 0 < peaks["loaded_mb"] <= peaks["peak_mb"]
