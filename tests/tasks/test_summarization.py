import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from w2sdefense.tasks import Summarization
from w2sdefense.tasks.summarization import longest_common_subsequence, rouge_l, rouge_n

# Few characters, so that they meet; a space, Latin letters and one beyond 16 bits among them.
TEXTS = st.text(alphabet="左右肺骨折。 aB1𠀀", max_size=40)


class Characters:
    """A tokenizer for rouge-score, whose own drops everything that is not a Latin letter."""

    def tokenize(self, text: str) -> list[str]:
        return [character for character in text if not character.isspace()]


INDEPENDENT = RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=Characters())


def test_scores_by_hand():
    # 5 and 4 characters, 3 shared: P = 3/5, R = 3/4. Pairs: 4 and 3, 左肺 shared: P = 1/4, R = 1/3.
    # In order: 左肺 and one more.
    scores = Summarization.scores("左肺有折骨", "左肺骨折")
    assert scores == pytest.approx({"rouge1": 8 / 9, "rouge2": 2 / 7, "rougeL": 6 / 9})


def test_a_repeated_character_counts_as_often_as_both_have_it():
    assert rouge_n("骨骨骨", "骨骨折", 1) == pytest.approx(2 / 3)


@given(TEXTS, TEXTS)
def test_scores_are_those_of_an_independent_implementation(answer, reference):
    ours = Summarization.scores(answer, reference)
    theirs = INDEPENDENT.score(reference, answer)
    assert ours == pytest.approx({name: score.fmeasure for name, score in theirs.items()})


@given(TEXTS)
def test_white_space_does_not_count(text):
    assert rouge_l(" ".join(text), text) == rouge_l(text, text)


@pytest.mark.parametrize(("first", "second", "length"), [("", "a", 0), ("abcde", "xbxdx", 2)])
def test_the_longest_common_subsequence(first, second, length):
    assert longest_common_subsequence(first, second) == length


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("无需特殊关注。", True),
        (" 无需特殊关注", True),
        ("左肺正常,无需 特殊关注!", True),
        ("需特殊关注。", False),
        ("", False),
    ],
)
def test_the_target_is_what_comes_out(answer, said):
    task = Summarization
    assert task.is_target(answer, task.default_target) is said
