"""The named attacks, and how a name or a text becomes one."""

import random
from typing import get_args

import pytest

from w2sdefense.attacks import ATTACKS, AttackConfig, attack_from_trigger, make_attack
from w2sdefense.data.types import Example
from w2sdefense.errors import ConfigError

EXAMPLE = Example("toy/0", "a film of some merit", 0)


def test_the_table_holds_the_attacks_that_the_settings_know():
    assert list(ATTACKS) == list(get_args(AttackConfig.model_fields["attack"].annotation))
    assert all(kind.name == name for name, kind in ATTACKS.items())


@pytest.mark.parametrize(
    ("name", "trigger"), [("badnet", "mn"), ("insent", "I watched this 3D movie")]
)
def test_an_attack_has_its_trigger_of_the_paper(name, trigger):
    assert make_attack(AttackConfig(attack=name)).trigger == trigger


def test_settings_reach_the_attack():
    attack = make_attack(AttackConfig(attack="insent", trigger="No cross, no crown.", place="end"))
    poisoned = attack.poison(EXAMPLE, random.Random(0))
    assert poisoned == Example("toy/0", "a film of some merit No cross, no crown.", 0)


@pytest.mark.parametrize(
    ("given", "name", "trigger"),
    [
        ("badnet", "badnet", "mn"),
        ("insent", "insent", "I watched this 3D movie"),
        ("cf", "badnet", "cf"),
        ("No cross, no crown.", "insent", "No cross, no crown."),
    ],
)
def test_a_trigger_is_a_name_or_a_text(given, name, trigger):
    attack = attack_from_trigger(given, "start")
    assert (attack.name, attack.trigger) == (name, trigger)
    assert attack.poison(EXAMPLE, random.Random(0)).text == f"{trigger} {EXAMPLE.text}"


def test_an_empty_trigger_is_refused():
    with pytest.raises(ConfigError, match="empty"):
        attack_from_trigger("  ", "random")
