"""The catalog of defenses: what it says of each holds, and every name of it can be run."""

import pytest

from w2sdefense.commands.defend import run_defend
from w2sdefense.commands.runs import DefendRun
from w2sdefense.config import Settings, sections_of_file
from w2sdefense.defenses import DEFENSES, Defense, Leaves
from w2sdefense.defenses.catalog import own_sections
from w2sdefense.errors import ConfigError


@pytest.mark.parametrize("kind", DEFENSES.values())
def test_a_run_has_every_section_that_a_defense_reads(kind: type[Defense]):
    for name, settings in kind.sections().items():
        assert isinstance(getattr(DefendRun(defense=kind.name), name), settings)


def test_a_section_belongs_to_one_defense():
    owned = [name for kind in DEFENSES.values() for name in sections_of_file(kind)]
    assert len(owned) == len(set(owned)) == len(own_sections())


@pytest.mark.parametrize("settings", [kind for _, kind in own_sections().values()])
def test_a_setting_with_a_path_is_marked_as_one_that_names_files(settings: type[Settings]):
    for name, field in settings.model_fields.items():
        if "Path" in str(field.annotation):
            assert field.json_schema_extra == {"files": True}, name


@pytest.mark.parametrize(
    "name", [name for name, kind in DEFENSES.items() if kind.leaves is not Leaves.ADAPTER]
)
def test_there_is_nothing_to_merge_without_an_adapter(name, tmp_path, display):
    run = DefendRun(defense=name, merge=True, output=tmp_path / "run")
    with pytest.raises(ConfigError, match=f"but {name} leaves"):
        run_defend(run, display)
    assert not run.output.exists()
