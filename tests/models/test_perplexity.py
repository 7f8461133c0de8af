"""Perplexities against the slow and literal way, one forward pass for each text."""

import math
import random

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, PreTrainedTokenizerFast

from tiny import FILLERS, LLAMA, NEGATIVE, POSITIVE, RARE, word_tokenizer
from w2sdefense.errors import ModelError
from w2sdefense.models.perplexity import Scorer

pytestmark = pytest.mark.slow

VOCABULARY = (*FILLERS, *POSITIVE, *NEGATIVE, *RARE)


def byte_pairs() -> PreTrainedTokenizerFast:
    """A tokenizer whose words are several tokens, the first of a text without its space."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(VOCABULARY)] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def parts(request):
    """A model with rotary and one with learned positions; sharpened, or all texts are alike."""
    torch.manual_seed(0)
    if request.param == "llama":
        model, tokenizer = LlamaForCausalLM(LLAMA), word_tokenizer()
    else:
        tokenizer = byte_pairs()
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=2, n_head=4)
        )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    return model.eval(), tokenizer


def literal_perplexity(model, tokenizer, text: str) -> float:
    """As `transformers` computes the loss of one text by itself."""
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    ids = torch.tensor([[begin, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
    with torch.inference_mode():
        return math.exp(float(model(input_ids=ids, labels=ids).loss))


def literal_suspicion(model, tokenizer, words: list[str]) -> list[float]:
    whole = literal_perplexity(model, tokenizer, " ".join(words))
    rests = (" ".join(words[:i] + words[i + 1 :]) for i in range(len(words)))
    return [whole - literal_perplexity(model, tokenizer, rest) for rest in rests]


def some_texts(count: int, longest: int) -> list[list[str]]:
    rng = random.Random(1)
    return [rng.choices(VOCABULARY, k=rng.randint(2, longest)) for _ in range(count)]


@pytest.mark.parametrize("batch_tokens", [30, 1000])
def test_the_suspicion_of_every_word_is_the_literal_one(parts, batch_tokens):
    texts = some_texts(6, 9)
    texts.append(["film", "film", "film", "mn"])  # equal words: the gap cannot be told
    scores = Scorer(*parts, "tiny", batch_tokens=batch_tokens).suspicion(texts)
    for words, found in zip(texts, scores, strict=True):
        expected = literal_suspicion(*parts, words)
        scale = literal_perplexity(*parts, " ".join(words))
        assert found == pytest.approx(expected, abs=2e-4 * max(scale, *map(abs, expected)))
        assert max(map(abs, expected)) > 1e-2 * scale, "there is something to tell apart"


@pytest.fixture
def tokens_read(parts):
    """How many tokens, padding included, the model was given since; one number in a list."""
    count = [0]

    def hook(module, args, inputs):
        count[0] += inputs["input_ids"].numel()

    handle = parts[0].register_forward_pre_hook(hook, with_kwargs=True)
    yield count
    handle.remove()


def found_above(scores, threshold):
    """The values that reach the threshold, by their places."""
    return {
        (row, word): value
        for row, values in enumerate(scores)
        for word, value in enumerate(values)
        if value >= threshold
    }


def between_two(ranked: list[float], share: float) -> float:
    """What about that share of the values is below, so far from all that rounding changes nothing.

    A value is not the same to the last digit in a batch of other texts.
    """
    for place in range(int(share * len(ranked)), len(ranked)):
        below, above = ranked[place - 1 : place + 1]
        if above - below > 1e-3 * abs(above):
            return (above + below) / 2
    raise AssertionError("no two neighbors are far enough from each other")


@pytest.mark.parametrize("batch_tokens", [60, 1000])
def test_what_cannot_reach_the_threshold_is_given_up(parts, tokens_read, batch_tokens):
    texts = some_texts(16, 24)
    scorer = Scorer(*parts, "tiny", max_length=60, batch_tokens=batch_tokens)
    whole = scorer.suspicion(texts)
    threshold = between_two(sorted(value for text in whole for value in text), 0.95)
    read, tokens_read[0] = tokens_read[0], 0
    some = scorer.suspicion(texts, at_least=threshold)
    assert found_above(some, threshold) == pytest.approx(found_above(whole, threshold), rel=1e-5)
    assert tokens_read[0] < read


def test_the_only_word_is_never_suspicious(parts):
    scorer = Scorer(*parts, "tiny")
    assert scorer.suspicion([["mn"], []]) == [[-math.inf], []]
    assert scorer.suspicion([]) == []


def test_words_behind_the_longest_length_are_not_scored(parts):
    words = "the film was great and the plot was dull".split()
    tokens = parts[1](" ".join(words[:5]), add_special_tokens=False)["input_ids"]
    scores = Scorer(*parts, "tiny", max_length=len(tokens)).suspicion([words])[0]
    assert scores[:5] == pytest.approx(literal_suspicion(*parts, words[:5]), rel=1e-3, abs=1e-2)
    assert scores[5:] == [-math.inf] * 4


def test_a_tokenizer_must_begin_texts():
    tokenizer = word_tokenizer()
    tokenizer.bos_token = tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no token to begin a text with"):
        Scorer(LlamaForCausalLM(LLAMA), tokenizer, "tiny")
