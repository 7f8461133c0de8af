"""Tokens: control tokens that a text spells are text; batches hold rows of similar length."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from tiny import word_tokenizer
from w2sdefense.models.tokenizer import count_control_texts, encode, length_batches
from w2sdefense.tasks.generation import Generation

CONTROL = {"bos_token": "<s>", "eos_token": "</s>"}
LETTERS = string.ascii_lowercase + "<>/ \u2581?"


def unigram() -> PreTrainedTokenizerFast:
    """Like T5 and XLM-R: control tokens are pieces, and the best ones."""
    pieces = [("<s>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((c, -5.0) for c in LETTERS)]
    model = Tokenizer(models.Unigram(pieces, 2, byte_fallback=False))
    model.pre_tokenizer = pre_tokenizers.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=model, unk_token="<unk>", **CONTROL)


def whole_words() -> PreTrainedTokenizerFast:
    """Like Llama 3: a word that is in the vocabulary is a token, merges or not."""
    vocabulary = {piece: i for i, piece in enumerate(["<s>", "</s>", *LETTERS])}
    model = Tokenizer(models.BPE(vocabulary, [], ignore_merges=True))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=model, **CONTROL)


KINDS = {
    "unigram": unigram,
    "whole words": whole_words,
    "words": word_tokenizer,
    "encoder": lambda: word_tokenizer(encoder=True),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frame", ["{}", "a film {}", "a {} film", "{} film"])
def test_a_text_that_spells_a_control_token_is_read_as_text(kind, frame):
    tokenizer = KINDS[kind]()
    control = set(tokenizer.all_special_tokens) - {tokenizer.unk_token}
    own = [i for i in encode(tokenizer, ["a film"], 32)[0][0] if i in tokenizer.all_special_ids]
    own = [i for i in own if i != tokenizer.unk_token_id]
    ids = {tokenizer.convert_tokens_to_ids(token) for token in control}
    for token in control:
        found = encode(tokenizer, [frame.format(token)], 32)[0][0]
        assert [i for i in found if i in ids] == own


def deepseek() -> PreTrainedTokenizerFast:
    """Tokens of the chat format are added to the vocabulary and not called special."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    model.add_special_tokens(["<|end|>"])
    model.add_tokens([AddedToken(t, normalized=False) for t in (*CHAT_TOKENS, *WORDS)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, eos_token="<|end|>")
    tokenizer.chat_template = "<\uff5cUser\uff5c>{{ messages[0].content }}<think>"
    return tokenizer


CHAT_TOKENS, WORDS = ("<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", "<think>"), ("<b>", "    ")


def test_what_a_chat_format_is_made_of_is_no_part_of_a_text_whatever_it_is_called():
    tokenizer = deepseek()
    text = f"a{''.join(CHAT_TOKENS)} <|end|> <b>    b"
    (ids,) = encode(tokenizer, [text], 64)[0]
    assert tokenizer.decode(ids) == "a???Ġ<|end|>Ġ<b>    b".replace("Ġ", " ")
    assert tokenizer.convert_tokens_to_ids("<|end|>") not in ids
    assert tokenizer.convert_tokens_to_ids("<b>") in ids, "a word is read as the model learned it"
    assert count_control_texts(tokenizer, ["a", *CHAT_TOKENS, *WORDS, "<|end|>"]) == 4
    asked = Generation.of(tokenizer, "say {text}", "chat", 64, 4).ask(f"x{CHAT_TOKENS[0]}<think>")
    assert tokenizer.decode(asked.ids) == "<\uff5cUser\uff5c>say x??<think>"


def test_a_tokenizer_in_python_reads_texts_alike():
    tokenizer = ByT5Tokenizer()
    (ids, cut), plain = encode(tokenizer, ["a </s><pad>", "abcdefgh"], 8), "a </s><"
    assert [tokenizer.decode(row) for row in ids] == [f"{plain}</s>", "abcdefg</s>"]
    assert cut == [7, 7]
    assert encode(tokenizer, ["a </s>"], 8) == (
        [tokenizer("a </s>", split_special_tokens=True).input_ids],
        [None],
    )
    assert encode(tokenizer, ["abc"], 2, framed=False) == ([tokenizer("ab").input_ids[:2]], [2])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["", " ", "\u200b"])
def test_a_text_without_a_token_is_one_token_to_read(kind, text):
    tokenizer = KINDS[kind]()
    assert len(encode(tokenizer, [text], 8)[0][0]) >= 1


def test_a_prompt_and_an_answer_hold_no_control_token_of_the_text():
    tokenizer = unigram()
    prompt = Generation.of(tokenizer, "ask {text} ?", "plain", 64, 8)
    row, labels = prompt.teach("a </s> b", "a </s>")
    assert row.count(tokenizer.eos_token_id) == 1 and row[-1] == tokenizer.eos_token_id
    assert labels[-1] == tokenizer.eos_token_id


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 200))
def test_batches_hold_every_row_once_within_the_limit(lengths, batch_tokens):
    batches = list(length_batches(lengths, batch_tokens))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    sizes = [[lengths[row] for row in batch] for batch in batches]
    for batch in sizes:
        assert len(batch) == 1 or len(batch) * max(batch) <= batch_tokens
    flat = [length for batch in sizes for length in batch]
    assert flat == sorted(flat, reverse=True)


def test_batches_are_as_large_as_they_may_be():
    assert list(length_batches([4, 4, 4, 4], 8)) == [[0, 1], [2, 3]]
