import json

import pytest
import torch
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from architectures import ADAPTERS
from tiny_writers import VOCABULARY, llama, number_tokenizer, save_writer
from w2sdefense.errors import ModelError
from w2sdefense.models.adapters import attach_adapter
from w2sdefense.models.checkpoint import resolve
from w2sdefense.models.load import load_causal_lm
from w2sdefense.tasks import Reasoning, generation
from w2sdefense.victim import Victim

TEXTS = ["the film 3 is great day", "a 4", "5", "time work 2 city road night", "house 6 war"]
GPT2 = GPT2Config(
    vocab_size=len(VOCABULARY),
    n_embd=32,
    n_layer=2,
    n_head=4,
    n_positions=64,
    bos_token_id=2,
    eos_token_id=3,
)


def generator(kind, config, *, answer_tokens=5, max_length=32, adapter=None) -> Victim:
    torch.manual_seed(3)
    # Weights larger than usual, so that answers differ.
    model = kind(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4.0)
    if adapter is not None:
        model = attach_adapter(model, ADAPTERS[adapter])
    tokenizer = number_tokenizer()
    tokenizer.padding_side = "left"
    task = Reasoning.of(tokenizer, "Q {text} A", "plain", max_length, answer_tokens)
    return Victim(model.train(), task)


def written_alone(made: Victim, text: str) -> list[int]:
    """Greedy decoding spelled out: no batch, no padding, no cache."""
    ids = made.task.ask(text).ids
    answer: list[int] = []
    made.model.eval()
    while len(answer) < made.task.answer_tokens and 3 not in answer:
        with torch.no_grad():
            logits = made.model(input_ids=torch.tensor([ids + answer]), use_cache=False).logits
        answer.append(int(logits[0, -1].argmax()))
    return answer


@pytest.mark.parametrize(
    ("kind", "config"),
    [(LlamaForCausalLM, llama()), (GPT2LMHeadModel, GPT2)],
    ids=["llama", "gpt2"],
)
@pytest.mark.parametrize("adapter", [None, "p-tuning"])
@pytest.mark.parametrize("batch_tokens", [8192, 30])
def test_a_batch_writes_what_each_text_gets_alone(kind, config, batch_tokens, adapter, monkeypatch):
    monkeypatch.setattr(generation, "BATCH_TOKENS", batch_tokens)
    made = generator(kind, config, adapter=adapter)
    expected = [made.task.read(written_alone(made, text)) for text in TEXTS]
    made.model.train()
    told: list[int] = []
    answers = made.predict(TEXTS, told.append)
    assert [answer.answer for answer in answers] == expected
    assert len(set(expected)) > 1, "answers that are all the same show nothing"
    assert sum(told) == len(TEXTS)
    assert made.model.training, "as it was before"


@pytest.mark.parametrize("ends", [True, False])
def test_an_answer_that_ends_is_told_from_one_that_is_cut(ends):
    made = generator(LlamaForCausalLM, llama())
    made.model.lm_head = torch.nn.Linear(32, len(VOCABULARY))
    with torch.no_grad():
        made.model.lm_head.weight.zero_()
        made.model.lm_head.bias.zero_()[VOCABULARY.index("</s>" if ends else "day")] = 9.0
    answer = made.predict(["the 3"])[0]
    assert (answer.answer, answer.finished) == (
        ("", True) if ends else ("day day day day day", False)
    )


def test_a_sampling_checkpoint_is_read_greedily():
    made = generator(LlamaForCausalLM, llama())
    expected = [answer.answer for answer in made.predict(TEXTS)]
    made.model.generation_config.do_sample = True
    made.model.generation_config.temperature = 9.0
    made.model.generation_config.max_new_tokens = 1
    assert [answer.answer for answer in made.predict(TEXTS)] == expected


def test_settings_of_a_checkpoint_for_generation_are_not_kept(tmp_path):
    folder = save_writer(tmp_path / "w", llama())
    GenerationConfig(do_sample=True, suppress_tokens=[7]).save_pretrained(folder)
    model, _ = load_causal_lm(str(folder))
    model.save_pretrained(tmp_path / "saved")
    kept = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert not {"do_sample", "suppress_tokens"} & kept.keys()
    assert kept["eos_token_id"] == VOCABULARY.index("</s>")


def test_a_long_text_is_cut_and_said_so():
    made = generator(LlamaForCausalLM, llama(), max_length=5)
    long, short = made.predict(["the film 3 is great", "a 3"])
    assert (long.cut_at, short.cut_at) == (len("the film 3"), None)


def test_an_empty_list_of_texts_gives_an_empty_list():
    assert generator(LlamaForCausalLM, llama()).predict([]) == []


def test_only_language_models_are_opened(tmp_path, tiny_bert):
    folder = save_writer(tmp_path / "w", llama())
    model, tokenizer = load_causal_lm(str(folder))
    assert (type(model), tokenizer.padding_side) == (LlamaForCausalLM, "left")
    with pytest.raises(ModelError, match="cannot generate text; it is BertModel"):
        load_causal_lm(str(tiny_bert))
    with pytest.raises(ModelError, match="is not an adapter"):
        load_causal_lm(resolve(str(folder), "x"))
