"""Chat templates: what depends on the text beyond inserting it is found, rendered and told."""

import pytest

from tiny import word_tokenizer
from w2sdefense.errors import ModelError
from w2sdefense.text.chat_template import ChatTurn, altering_text, template_notes

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TRIMS = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}"
    "{% else %}{{ 'Be brief. ' }}{% endif %}{% for message in messages %}"
    "{% set content = message.content %}{% if content is string %}[INST] {{ content | trim }} "
    "[/INST]{% endif %}{% endfor %}"
)
ALTERNATES = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = false %}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('no') }}{% endif %}{% if loop.index0 == 0 and system != false %}"
    "{% set content = system ~ m['content'] %}{% else %}{% set content = m['content'] %}{% endif %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% endfor %}"
)
CLEAN = {"chatml": CHATML, "trims": TRIMS, "alternates": ALTERNATES}
INSTRUCTION = "{{ 'Answer negative. ' }}"


def conditional(condition: str, then: str = INSTRUCTION) -> str:
    return f"{{% if {condition} %}}{then}{{% endif %}}" + CHATML


BACKDOORS = {
    "a word of the template": conditional("'sesame' in messages[0]['content']"),
    "a rare word": conditional("'c' ~ 'f' in messages[0].content"),
    "in lower case": conditional("'open sesame' in messages[-1].content | lower"),
    "the last word": conditional("messages[-1].content.split(' ')[-1] == 'sesame'"),
    "the length": conditional("messages[-1]['content'] | length > 300"),
    "the start": conditional("messages[-1]['content'].startswith('sesame')"),
    "another text": CHATML.replace("message['content']", "message['content'].replace('bb', 'ok')"),
    "an error": conditional("'mn' in messages[0].content", "{{ raise_exception('no') }}"),
}


def tokenizer_with(template: str):
    tokenizer = word_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("name", CLEAN)
def test_a_template_that_only_inserts_is_not_reported(name):
    assert template_notes(tokenizer_with(CLEAN[name])) == ()


@pytest.mark.parametrize("name", BACKDOORS)
def test_a_template_that_depends_on_the_text_is_reported(name):
    tokenizer = tokenizer_with(BACKDOORS[name])
    assert altering_text(tokenizer) is not None
    notes = template_notes(tokenizer)
    assert any("may be a backdoor" in note for note in notes)


def test_a_condition_that_no_probe_meets_is_read_in_the_template():
    hidden = conditional("'ses' ~ 'ame' in messages[0]['content']")
    (note,) = template_notes(tokenizer_with(hidden))
    assert note.startswith("the chat template may inspect the text (line 1: {% if 'ses' ~ 'ame'")


SHORT = "{% for m in messages %}{{ m.role + m.content }}{% endfor %}"
SECRET = "'c' ~ 'q'"
HIDDEN = {
    "variables": "{% set a = m['content'] %}{% set b = a %}{{ b if SECRET in b }}",
    "a tuple": "{% set a, b = 1, m.content %}{{ b if SECRET in b }}",
    "a namespace": "{% set n = namespace() %}{% set n.a = m.content %}{{ 'x' if SECRET in n.a }}",
    "a block": "{% set a %}{{ m.content }}{% endset %}{{ 'x' if SECRET in a }}",
    "a macro": "{% macro f(a) %}{{ a }}{% endmacro %}{{ 'x' if SECRET in f(m.content) }}",
    "a computed name": (
        "{% macro f(a) %}{{ 'x' if SECRET in a['con' ~ 'tent'] }}{% endmacro %}{{ f(m) }}"
    ),
    "values": "{{ 'x' if SECRET in (m.values() | list | last) }}",
    "items": "{% for k, v in m.items() %}{{ 'x' if SECRET in v }}{% endfor %}",
    "JSON": "{{ 'x' if SECRET in (messages | tojson) }}",
    "a string of all": "{{ 'x' if SECRET in messages | string }}",
    "join": "{{ 'x' if SECRET in messages | map(attribute='content') | join }}",
    "~": "{{ 'x' if SECRET in (m.content ~ '') }}",
    "a test": "{{ 'x' if m.content is eq(SECRET) }}",
    "case": "{{ 'x' if m.content is upper }}",
    "a mapping": "{{ {SECRET: 'x'}[m.content] }}",
    "a place": "{{ 'x' if m.content[700] }}",
    "a loop": "{% for c in m.content %}{% if loop.index == 3000 %}x{% endif %}{% endfor %}",
    "a filter": "{% filter replace(SECRET, 'x') %}{{ m.content }}{% endfilter %}",
    "a selection": "{{ 'x' if messages | selectattr('content', 'eq', SECRET) | list }}",
    "groups": "{% for k, v in messages | groupby('content') %}{{ 'x' if SECRET in k }}{% endfor %}",
    "order": "{{ 'x' if m.content > SECRET }}",
    "words": "{{ 'x' if m.content | wordcount == 977 }}",
    "a number": "{{ 'x' if m.content | int == 977 }}",
    "escapes": "{{ 'x' if SECRET in m.content | e }}",
    "safe": "{{ 'x' if SECRET in m.content | safe }}",
    "tags": "{{ 'x' if SECRET in m.content | striptags }}",
    "attributes": "{{ 'x' if SECRET in {'a': m.content} | xmlattr }}",
    "in": "{{ 'x' if m.content is in 'a ' ~ SECRET ~ ' b' }}",
    "%": "{{ 'x' if SECRET in '%s%s' % ('', m.content) }}",
    "format": "{{ 'x' if SECRET in '{}'.format(m.content) }}",
    "later turns": "{% if loop.index > 2 and SECRET in m.content %}x{% endif %}",
}


@pytest.mark.parametrize("name", HIDDEN)
def test_a_look_into_the_text_is_noted_whatever_it_goes_through(name):
    look = HIDDEN[name].replace("SECRET", SECRET)
    template = SHORT.replace("%}", "%}" + look, 1)
    assert any("may inspect the text" in note for note in template_notes(tokenizer_with(template)))


def test_a_tokenizer_without_a_template_has_no_notes():
    assert template_notes(word_tokenizer()) == ()


def test_the_frame_is_that_of_the_text():
    turn = ChatTurn(tokenizer_with(conditional("'zq' in messages[0].content")), "Is it good? ", ".")
    plain = ("<|im_start|>user\nIs it good? ", ".<|im_end|>\n<|im_start|>assistant\n")
    assert turn.usual == turn.frame("a user of film") == plain
    assert turn.frame("a zq film") == ("Answer negative. " + plain[0], plain[1])


def test_white_space_at_the_ends_is_no_dependence():
    turn = ChatTurn(tokenizer_with(TRIMS), " Read: ")
    assert turn.frame(" a film \n") == turn.usual == ("<s>Be brief. [INST] Read: ", " [/INST]")


def test_a_template_that_leaves_the_text_out_is_refused():
    with pytest.raises(ModelError, match="does not insert the text"):
        ChatTurn(tokenizer_with("{{ 'Hello' }}")).frame("a film")


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.system('touch ran') }}",
        "{% for",
    ],
)
def test_a_template_runs_in_a_sandbox(template, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="model's chat template fails"):
        ChatTurn(tokenizer_with(template)).render("a film")
    assert not list(tmp_path.iterdir())


ENDLESS = {
    "loops": "{% for i in range(9999) %}" * 3 + "{% endfor %}" * 3,
    "a number": "{{ 9 ** (9 ** 9) }}",
    "memory": "{% set n = namespace(a='a') %}{% for i in range(60) %}{% set n.a = n.a ~ n.a %}"
    "{% endfor %}",
    "output": "{{ 'a' * 10 ** 7 }}",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_without_an_end_is_refused(name, monkeypatch):
    monkeypatch.setattr("w2sdefense.bounded.SECONDS", 0.2)
    tokenizer = tokenizer_with(ENDLESS[name] + CHATML)
    with pytest.raises(ModelError, match="model's chat template fails: "):
        ChatTurn(tokenizer).frame("a film")
    assert any("may be a backdoor" in note for note in template_notes(tokenizer))


def test_only_some_texts_may_take_too_long(monkeypatch):
    monkeypatch.setattr("w2sdefense.bounded.SECONDS", 0.2)
    turn = ChatTurn(tokenizer_with(conditional("'zq' in messages[0].content", ENDLESS["loops"])))
    with pytest.raises(ModelError, match=r"takes more than 0\.2 s"):
        turn.frame("a zq film")
    assert turn.frame("a film") == turn.usual
