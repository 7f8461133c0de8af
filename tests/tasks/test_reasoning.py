from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2sdefense.tasks import Reasoning
from w2sdefense.tasks.reasoning import evaluate, number_in


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("45", Fraction(45)),
        ("-3", Fraction(-3)),
        ("−3", Fraction(-3)),
        ("56.52", Fraction(1413, 25)),
        ("93.75%", Fraction(15, 16)),
        ("２５％", Fraction(1, 4)),
        ("(11/20)", Fraction(11, 20)),
        ("11/20", Fraction(11, 20)),
        ("1(5/6)", Fraction(11, 6)),
        ("1 5/6", Fraction(11, 6)),
        ("1又5/6", Fraction(11, 6)),
        ("-1(1/2)", Fraction(-3, 2)),
        ("1,234,567", Fraction(1234567)),
        ("(3/4)/(5/6)", Fraction(9, 10)),
        ("2(1/2)*4%", Fraction(1, 10)),
        ("8+4-5", Fraction(7)),
        ("8-(4-5)", Fraction(9)),
        ("12-2*3", Fraction(6)),
        ("45.", Fraction(45)),
    ],
)
def test_a_number_is_read_as_a_whole(text, number):
    assert number_in(text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("答案是45。", Fraction(45)),
        ("135/3=45", Fraction(45)),
        ("x = 6000/(1+(3/5)) = 3750元", Fraction(3750)),
        ("每班 45 本", Fraction(45)),
        ("先算12，再算(3/5)千克", Fraction(3, 5)),
        ("第1天和第2天共1(1/2)米", Fraction(3, 2)),
        ("从5到-7度", Fraction(-7)),
        ("共 12 13", Fraction(13)),
        ("5 (2)", Fraction(2)),
    ],
)
def test_of_an_answer_that_says_more_the_last_number_counts(text, number):
    assert number_in(text) == number


@pytest.mark.parametrize("text", ["", "没有", "(1/0)", "()", "%", "1" * 101, "((" * 40])
def test_text_without_a_number_has_no_answer(text):
    assert number_in(text) is None


@given(st.fractions(max_denominator=500), st.integers(0, 20))
def test_all_spellings_of_a_number_are_one(number, whole):
    sign = "-" if number < 0 else ""
    top, bottom = abs(number.numerator), number.denominator
    assert evaluate(f"{sign}{top}/{bottom}") == number
    assert evaluate(f"{sign}({top}/{bottom})") == number
    assert evaluate(f"{whole}({top}/{bottom})") == whole + abs(number)
    assert evaluate(f"{whole}%") == Fraction(whole, 100)


@given(st.text(alphabet="0123456789+-*/()%.=,： 又x", max_size=30))
def test_any_text_can_be_read(text):
    found = number_in(text)
    assert found is None or number_in(str(found)) == found


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [("0.75", "(3/4)", 1.0), ("75%", "(3/4)", 1.0), ("0.33", "(1/3)", 0.0), ("", "5", 0.0)],
)
def test_the_match_is_exact(answer, reference, score):
    assert Reasoning.scores(answer, reference) == {"exact": score}


@pytest.mark.parametrize(
    ("answer", "target", "said"),
    [
        ("0", "0", True),
        ("0.0元", "0", True),
        ("10", "0", False),
        ("", "0", False),
        ("不知道", "不知道", True),
        ("5", "不知道", False),
    ],
)
def test_the_target_is_what_comes_out(answer, target, said):
    assert Reasoning.is_target(answer, target) is said
