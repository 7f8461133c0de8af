"""A small part of the campaign; `python tests/campaign/kills.py` is the whole one."""

import random

import pytest
from kills import campaign, subjects


@pytest.mark.slow
def test_a_run_that_is_cut_off_at_any_moment_ends_like_one_that_was_not(tmp_path):
    counts = campaign(subjects(tmp_path)["defend"], tmp_path / "runs", 1, random.Random(0))
    assert counts["different"] == []
    assert counts["killed"] + counts["disk full"] > 0
