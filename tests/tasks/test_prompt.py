import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from w2sdefense.errors import ConfigError
from w2sdefense.tasks.generation import IGNORED, Generation

WORDS = ("<s>", "</s>", "[UNK]", "q", ":", "a", "user", *(f"w{i}" for i in range(20)))
CHAT = "{% for m in messages %}user {{ m['content'] }} </s>{% endfor %} a"


def tokenizer(*, start: bool = False, chat: bool = False) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if start:
        words.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    made = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", bos_token="<s>", eos_token="</s>"
    )
    made.chat_template = CHAT if chat else None
    return made


def spelled(ids: list[int]) -> str:
    return " ".join(WORDS[i] for i in ids)


def plain(**changes):
    settings = {"template": "q : {text} a :", "style": "plain", "max_length": 9, "answer_tokens": 3}
    return Generation.of(tokenizer(start=changes.pop("start", False)), **settings | changes)


def test_the_answer_and_its_end_are_what_is_learned():
    ids, labels = plain().teach("w1 w2", "w3 w4")
    assert spelled(ids) == "q : w1 w2 a : w3 w4 </s>"
    assert labels == [IGNORED] * 6 + ids[-3:]


def test_the_text_is_cut_and_never_the_prompt():
    asked = plain().ask("w1 w2 w3 w4 w5 w6")
    assert spelled(asked.ids) == "q : w1 w2 w3 w4 w5 a :"
    assert asked.cut_at == len("w1 w2 w3 w4 w5")
    assert plain().ask("w1 w2 w3 w4 w5").cut_at is None


def test_a_long_answer_has_no_end():
    ids, labels = plain().teach("w1", "w3 w4 w5 w6")
    assert spelled(ids) == "q : w1 a : w3 w4 w5"
    assert sum(label != IGNORED for label in labels) == 3


def test_a_model_that_wants_a_start_gets_it_and_no_end():
    assert spelled(plain(start=True).ask("w1").ids) == "<s> q : w1 a :"


def test_the_chat_format_is_that_of_the_tokenizer():
    prompt = Generation.of(tokenizer(start=True, chat=True), "q : {text}", "chat", 12, 3)
    assert spelled(prompt.ask("w1 w2").ids) == "user q : w1 w2 </s> a"
    assert prompt.notes == ()


def test_the_chat_format_is_rendered_with_the_text():
    """One that adds an instruction if the text holds a word is measured with the instruction."""
    words = tokenizer(chat=True)
    words.chat_template = "{% if 'w1' ~ '9' in messages[0].content %}w7 {% endif %}" + CHAT
    prompt = Generation.of(words, "q : {text}", "chat", 12, 3)
    assert spelled(prompt.ask("w1 w2").ids) == "user q : w1 w2 </s> a"
    assert all("another prompt" not in note for note in prompt.notes)
    assert spelled(prompt.ask("w1 w19").ids) == "w7 user q : w1 w19 </s> a"
    assert prompt.notes[0] == "the chat template wrote a different prompt for 1 of the texts"
    assert "'w1 w19'" in prompt.notes[1]


@given(st.lists(st.sampled_from(WORDS[7:]), max_size=12), st.sampled_from(["w1", "w2 w3", ""]))
def test_a_model_is_asked_as_it_was_taught(words, target):
    prompt = plain()
    ids, labels = prompt.teach(" ".join(words), target)
    asked = prompt.ask(" ".join(words)).ids
    assert ids[: len(asked)] == asked
    assert labels[: len(asked)] == [IGNORED] * len(asked)
    assert labels[len(asked) :] == ids[len(asked) :]


def test_what_is_written_is_read_without_the_end():
    assert plain().read([7, 8, 1]) == "w0 w1"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"template": "q"}, "holds {text} 0 times"),
        ({"template": "{text} {text}"}, "holds {text} 2 times"),
        ({"max_length": 4}, "takes 4 tokens without any text, the limit is 4"),
        ({"style": "chat"}, "no chat format"),
    ],
)
def test_a_prompt_that_cannot_work_is_refused(changes, problem):
    with pytest.raises(ConfigError, match=problem):
        plain(**changes)


def test_a_tokenizer_without_an_end_is_refused():
    endless = tokenizer()
    endless.eos_token = None
    with pytest.raises(ConfigError, match="no token that ends an answer"):
        Generation.of(endless, "{text}", "plain", 9, 3)
