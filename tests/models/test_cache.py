"""Where converted models are kept."""

from pathlib import Path

import pytest

from w2sdefense.errors import ConfigError
from w2sdefense.models.embedded import cache_folder, make_cache


@pytest.mark.parametrize("value", ["", "some/where"])
def test_a_cache_that_is_no_absolute_path_counts_as_not_set(monkeypatch, value):
    monkeypatch.delenv("W2S_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert cache_folder("models") == Path.home() / ".cache" / "w2sdefense" / "models"


def test_a_cache_that_cannot_be_written_to_is_told_before_the_work(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("W2S_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="cannot be written to") as caught:
        make_cache("models")
    assert "W2S_CACHE" in caught.value.fix
