"""The table of defenses: what it says of each holds, and every name of it can be run."""

from __future__ import annotations

from typing import get_args

import pytest

from w2sdefense.commands.defend import run_defend
from w2sdefense.config import DefendRun, DefenseName
from w2sdefense.defenses import DEFENSES, Leaves
from w2sdefense.errors import ConfigError


def test_the_command_line_knows_every_defense():
    assert get_args(DefenseName) == tuple(DEFENSES)
    assert [kind.name for kind in DEFENSES.values()] == list(DEFENSES)


@pytest.mark.parametrize(
    "name", [name for name, kind in DEFENSES.items() if kind.leaves is not Leaves.ADAPTER]
)
def test_there_is_nothing_to_merge_without_an_adapter(name, tmp_path, display):
    run = DefendRun(defense=name, merge=True, output=tmp_path / "run")
    with pytest.raises(ConfigError, match=f"but {name} leaves"):
        run_defend(run, display)
    assert not run.output.exists()
