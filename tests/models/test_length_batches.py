"""Batches of similar length, within a limit of tokens."""

from hypothesis import given
from hypothesis import strategies as st

from w2sdefense.models.tokenizer import length_batches


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
