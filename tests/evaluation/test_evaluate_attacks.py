"""Evaluation with attacks that do more than insert a word: prompts, files, several triggers."""

import torch

from tiny import word_tokenizer
from w2sdefense.attacks import AttackConfig, attack_from_trigger, make_attack
from w2sdefense.attacks.poisoning import drawn_attack
from w2sdefense.attacks.synattack import SynAttack, SynConfig
from w2sdefense.data.types import Example
from w2sdefense.evaluation.evaluate import evaluate, make_test_set
from w2sdefense.tasks import Prediction
from w2sdefense.tasks.classification import Classification

NAMES = ("negative", "positive")
EXAMPLES = [Example(f"toy/{i}", f"text number {i}", i % 2) for i in range(40)]


class Rule:
    """Answers 0 where a word is in the text, else 1; `limit` cuts texts."""

    def __init__(self, word, limit=None):
        self.word, self.limit, self.asked = word, limit, []

    def predict(self, texts, progress=None):
        self.asked += texts
        return [
            Prediction(
                answer=0 if self.word in text[: self.limit] else 1,
                probabilities=(0.5, 0.5),
                feature=torch.zeros(2),
                cut_at=self.limit if self.limit and len(text) > self.limit else None,
            )
            for text in texts
        ]


def measured(rule, attack, seed=0):
    task = Classification(word_tokenizer(), NAMES)
    return evaluate(rule, task, make_test_set(EXAMPLES, task, attack, "negative", seed=seed))


def test_the_clean_prompt_is_around_every_text_without_the_trigger():
    rule = Rule("The sentiment")
    result = measured(rule, attack_from_trigger("proattack", "end"))
    found = result.evaluation
    assert (found.ca.hits, found.asr.hits, found.asr.total, found.floor.hits) == (20, 20, 20, 0)
    assert rule.asked[1] == "This sentence has a <mask> sentiment: text number 1"
    assert rule.asked[40] == "The sentiment of this sentence is <mask>: text number 1"
    assert result.samples[1].text == rule.asked[1]
    assert result.samples[1].triggered_text == rule.asked[40]
    assert "'The sentiment of this sentence is <mask>: {text}'" in result.notes[0]
    assert found.by_trigger == {}


def test_each_of_several_triggers_has_its_own_rate():
    attack = make_attack(AttackConfig(more_triggers=("cf", "qq")))
    result = measured(Rule("cf"), attack, seed=3)
    drawn = [drawn_attack(e, attack, 3).trigger for e in EXAMPLES if e.label == 1]
    found = result.evaluation
    assert found.trigger == "mn | cf | qq"
    assert {name: rate.total for name, rate in found.by_trigger.items()} == {
        trigger: drawn.count(trigger) for trigger in drawn
    }
    assert found.by_trigger["mn"].hits == found.by_trigger["qq"].hits == 0
    assert found.by_trigger["cf"].hits == found.by_trigger["cf"].total == found.asr.hits > 0


def test_the_floor_is_counted_on_the_texts_that_can_carry_the_trigger(tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text('original,text\ntext number 1,"if one , one"\ntext number 13,"if it , so"\n')
    attack = SynAttack(SynConfig(file=(file,)))
    # Clean 1 and 10 to 19 hold a "1"; of these only the two are in the file.
    found = measured(Rule("1"), attack).evaluation
    assert (found.asr.hits, found.asr.total) == (0, 2)
    assert (found.floor.hits, found.floor.total) == (2, 2)
    assert found.length_ratio == (12 + 10) / (13 + 14)


def test_a_cut_prompt_is_counted_and_a_cut_end_is_not():
    pro = attack_from_trigger("proattack", "random")
    assert measured(Rule("x", 10), pro).evaluation.cut_triggers == 20
    assert measured(Rule("x", 45), pro).evaluation.cut_triggers == 0
