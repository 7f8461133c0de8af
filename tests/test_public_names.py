"""The names that `w2sdefense` exports are there."""

import re
from pathlib import Path

import pytest

import w2sdefense


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(w2sdefense._EXPORTS))
def test_every_public_name_is_there(name):
    assert callable(getattr(w2sdefense, name))
    assert name in dir(w2sdefense)


def test_type_checkers_see_the_same_names():
    stub = Path(w2sdefense.__file__).with_suffix(".pyi").read_text()
    assert set(re.findall(r" as (\w+)$", stub, re.M)) == set(w2sdefense._EXPORTS)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        w2sdefense.nothing  # noqa: B018
