"""The names that `w2sdefense` exports are there, and its version is that of its code."""

import re
from pathlib import Path

import pytest

import w2sdefense
from w2sdefense.version import code_of, code_version


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


def test_words_about_the_code_are_no_part_of_its_version():
    bare = "def f(x):\n    return x + 1\nC = 2\n"
    told = '"""A."""\ndef f(x):  # why\n    """B."""\n    return (x +\n 1)\nC = 2\n"""Said."""\n'
    assert code_of(told) == code_of(bare)


def test_what_the_code_does_is():
    assert code_of("x = 1") != code_of("x = 2")
    assert code_of("x = 'a'") != code_of("y = 'a'")
    assert code_of("if a:\n    b()") != code_of("if a:\n    pass\nb()")


def test_a_version_names_the_release():
    release, _, code = code_version().partition("+")
    assert release[0].isdigit()
    assert len(code) == 8
