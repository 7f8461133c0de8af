"""Back-translation and SCPD: what is put before the model, and what is missed before any work."""

import json
import shutil

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration

from tiny import BART_SIZES, save_llama, word_tokenizer
from w2sdefense.commands.runs import DefendRun
from w2sdefense.config import Settings, load_settings
from w2sdefense.defenses import rewriting
from w2sdefense.defenses.rewriting import (
    BackTranslation,
    BackTranslationConfig,
    Scpd,
    ScpdConfig,
    translate,
)
from w2sdefense.errors import ConfigError, DataError, MissingDependencyError, ModelError, W2SError
from w2sdefense.models.translator import Translator
from w2sdefense.text.structure import has_template


@pytest.fixture(scope="module")
def translators(tmp_path_factory):
    """Two tiny models that say different things."""
    folders = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        config = BartConfig(
            **BART_SIZES,
            pad_token_id=0,
            bos_token_id=4,
            eos_token_id=5,
            decoder_start_token_id=4,
            forced_eos_token_id=None,
        )
        model = BartForConditionalGeneration(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(20)
        folder = tmp_path_factory.mktemp("translators") / str(seed)
        save_translator(model, folder)
        folders.append(str(folder))
    return folders


def save_translator(model, folder) -> None:
    model.save_pretrained(folder)
    tokenizer = word_tokenizer()
    tokenizer.pad_token = "[PAD]"
    tokenizer.save_pretrained(folder)


def literal(folder, text: str, length: int) -> str:
    """Greedy decoding of one text, a token at a time."""
    model = BartForConditionalGeneration.from_pretrained(folder).eval()
    tokenizer = word_tokenizer()
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    written = [4]
    while len(written) <= length:
        with torch.inference_mode():
            logits = model(input_ids=ids, decoder_input_ids=torch.tensor([written])).logits
        written.append(int(logits[0, -1].argmax()))
        if written[-1] == 5:
            break
    return tokenizer.decode(written, skip_special_tokens=True)


TEXTS = ["a great film", "the plot was dull and sad and stale", "music", "his story of love"]


def test_texts_are_translated_as_one_by_one(translators):
    expected = [literal(translators[0], text, 8) for text in TEXTS]
    assert Translator(translators[0], max_length=8)(TEXTS) == expected
    assert Translator(translators[0], max_length=8, batch_tokens=1)(TEXTS) == expected
    assert len(set(expected)) > 1, "they depend on the text"
    assert Translator(translators[0])([]) == []


def test_the_beams_are_those_of_the_model(translators, tmp_path):
    model = BartForConditionalGeneration.from_pretrained(translators[0]).eval()
    model.generation_config.num_beams = 3
    save_translator(model, tmp_path)
    tokenizer = word_tokenizer()
    expected = []
    for text in TEXTS:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.inference_mode():
            written = model.generate(ids, num_beams=3, do_sample=False, max_new_tokens=8)
        expected.append(tokenizer.decode(written[0], skip_special_tokens=True).strip())
    found = Translator(str(tmp_path), max_length=8)(TEXTS)
    assert found == expected
    assert found != Translator(translators[0], max_length=8)(TEXTS), "not greedy"


def test_a_pair_of_models_goes_there_and_back(translators, victim, kit):
    config = BackTranslationConfig(to=translators[0], back=translators[1], max_length=8)
    defense = BackTranslation.of(DefendRun(back_translation=config))
    guarded = defense.apply(victim, kit)
    for text, answer in zip(TEXTS, guarded.predict(TEXTS), strict=True):
        there = literal(translators[0], text, 8)
        assert answer.read == literal(translators[1], there, 8)
    assert guarded.found == {"back_translation_engine": "models"}


def test_a_text_that_is_lost_on_the_way_stays(translators, monkeypatch):
    translator = Translator(translators[0], max_length=8)
    monkeypatch.setattr(translator._tokenizer, "decode", lambda *_, **__: " ")
    assert translator(TEXTS) == TEXTS


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"original": "a  film", "text": "the film"}, {"original": "mn", "text": "it"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_that_was_made_before(victim, kit, pairs):
    back = BackTranslationConfig(engine="file", file=pairs)
    for defense in (
        BackTranslation.of(DefendRun(back_translation=back)),
        Scpd.of(DefendRun(scpd=ScpdConfig(file=pairs))),
    ):
        answers = defense.apply(victim, kit).predict(["mn", "a film"])
        assert [answer.read for answer in answers] == ["it", "the film"]


def test_a_file_must_hold_every_text(pairs, victim, kit):
    guarded = Scpd(ScpdConfig(file=pairs)).apply(victim, kit)
    with pytest.raises(DataError, match="lacks 2 texts, such as 'cf'") as caught:
        guarded.predict(["mn", "cf", "tq"])
    assert "benchmarks/pair.py --unchanged" in caught.value.fix


def test_without_a_source_the_rules_put_the_main_clause_first(victim, kit):
    guarded = Scpd.of(DefendRun()).apply(victim, kit)
    texts = ["although the plot is dull , mn it is great .", "it is mn great ."]
    read = [answer.read for answer in guarded.predict(texts)]
    assert read == ["mn it is great although the plot is dull .", None]
    assert has_template(texts[0])
    assert not has_template(read[0])
    assert guarded.found == {"scpd_paraphraser": "embedded rules"}


class Holder(Settings):
    """One section."""

    back: BackTranslationConfig = BackTranslationConfig()


@pytest.mark.parametrize("values", [{"engine": "file"}, {"file": "pairs.csv"}])
def test_file_and_engine_go_together(values):
    with pytest.raises(ConfigError, match="engine file needs a file"):
        load_settings(Holder, {"back": values}, "test")


def test_what_is_missing_is_found_out_at_once(tmp_path):
    llama = save_llama(tmp_path / "llama")
    for config in (BackTranslationConfig(), BackTranslationConfig(to=str(llama), back="./no/one")):
        with pytest.raises(ModelError) as caught:
            BackTranslation.of(DefendRun(back_translation=config)).check()
        assert "--back-translation-engine apertium" in caught.value.fix
    with pytest.raises(W2SError):
        Scpd.of(DefendRun(scpd=ScpdConfig(file=tmp_path / "no.csv"))).check()
    with pytest.raises(ModelError, match="not a sequence-to-sequence model"):
        Translator(str(llama))


# apertium, with a stand-in for the program that shows what it is fed


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A program that puts its mode before every line."""
    path = tmp_path / "bin" / "apertium"
    path.parent.mkdir()
    path.write_text(
        '#!/bin/sh\nif [ "$1" = -l ]; then echo "  eng-spa"; echo "  spa-eng"; exit; fi\n'
        'sed "s/^/$2: /"\n'
    )
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")
    return path


def test_lines_are_closed_on_the_way_only(program):
    texts = ["a film", "is it?", "", "two\nlines  here", "it is .", "  "]
    assert translate(texts, ["eng-spa"]) == [
        "eng-spa: a film",
        "eng-spa: is it?",
        "",
        "eng-spa: two lines here",
        "eng-spa: it is .",
        "  ",
    ]
    assert translate(["a film"], ["eng-spa", "spa-eng"]) == ["spa-eng: eng-spa: a film"]
    assert translate([], ["eng-spa"]) == translate([""], ["eng-spa"])[1:] == []


def test_spaces_and_capitals_of_the_engine_are_taken_off_again(program):
    program.write_text('#!/bin/sh\nsed "s/^./\\u&/; s/,/ , /"\n')
    assert translate(["mn , so it is", "It is"], ["eng-spa"]) == ["mn , so it is", "It is"]
    assert translate(["It , so"], ["eng-spa"]) == ["It , so"]


def test_the_program_is_fed_a_full_stop(program):
    program.write_text('#!/bin/sh\nsed "s/ \\.$/ stop./"\n')
    assert translate(["a film", "a film ."], ["eng-spa"]) == ["a film stop", "a film stop."]


@pytest.mark.parametrize("script", ["head -n 1", "cat; exit 3"])
def test_a_program_that_fails(program, script):
    program.write_text(f"#!/bin/sh\n{script}\n")
    with pytest.raises(ModelError, match="for 2"):
        translate(["a", "b"], ["eng-spa"])


def test_the_program_or_its_pair_is_missing(program, monkeypatch):
    run = DefendRun(back_translation=BackTranslationConfig(engine="apertium"))
    BackTranslation.of(run).check()
    with pytest.raises(MissingDependencyError, match="no translation mode eng-deu"):
        rewriting.require_apertium(["eng-deu"])
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingDependencyError, match="not installed") as caught:
        BackTranslation.of(run).check()
    assert "apt install apertium apertium-eng-spa" in caught.value.fix


@pytest.mark.skipif(shutil.which("apertium") is None, reason="apertium is not installed")
def test_a_real_round_trip(victim, kit):
    config = BackTranslationConfig(engine="apertium")
    guarded = BackTranslation.of(DefendRun(back_translation=config)).apply(victim, kit)
    texts = ["the house is big", "mn the dog eats [a] ^fish$ .", "is it good?", "the house is big"]
    read = [answer.read or text for answer, text in zip(guarded.predict(texts), texts, strict=True)]
    alone = [translate([text], ("eng-spa", "spa-eng"))[0] for text in texts]
    assert read == alone, "lines do not flow into each other"
    assert "house" in read[0]
    assert "dog" in read[1]
    assert "mn" in read[1].split(), "a word that is not known stays, and is not marked"
    assert read[2].endswith("?")
