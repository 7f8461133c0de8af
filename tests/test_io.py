"""Files are written whole or not at all."""

import json
import math
import os
import subprocess
import sys
from socket import gethostname
from subprocess import PIPE

import pytest

from w2sdefense.errors import ConfigError
from w2sdefense.io import atomic_path, only_process_in, write_json, write_text


def test_a_file_is_written_into_a_new_folder(tmp_path):
    write_text(tmp_path / "a" / "b.txt", "schön\n")
    assert (tmp_path / "a" / "b.txt").read_text(encoding="utf-8") == "schön\n"


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "kept.txt"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        temporary.write_text("half of the n")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "table.parquet"
    write_text(path, "old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        # Some writers choose the format by the suffix.
        assert temporary.suffix == ".parquet"
    assert path.read_text() == "new"


def test_json_is_readable_and_ends_in_a_newline(tmp_path):
    write_json(tmp_path / "a.json", {"name": "好"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "name": "好"\n}\n'


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_refuses_what_json_cannot_say(tmp_path, value):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"loss": value})
    assert list(tmp_path.iterdir()) == []


WRITE = """
import sys
from pathlib import Path
from w2sdefense.io import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("inside", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_writer_left_goes_and_what_one_at_work_writes_stays(tmp_path):
    path = tmp_path / "samples.parquet"
    arguments = [sys.executable, "-c", WRITE, str(path)]
    with subprocess.Popen(arguments, stdin=PIPE, stdout=PIPE, text=True) as other:
        assert other.stdout.readline() == "inside\n"
        write_text(path, "first")
        assert len(list(tmp_path.iterdir())) == 2, "the other one is still at work"
        other.kill()
    write_text(tmp_path / "other.parquet", "another file")
    assert len(list(tmp_path.iterdir())) == 3
    write_text(path, "second")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.parquet", "samples.parquet"]
    assert path.read_text() == "second"


HOLD = """
import sys
from pathlib import Path
from w2sdefense.io import only_process_in
with only_process_in(Path(sys.argv[1])):
    print("inside", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other_command(tmp_path):
    """Another command that works in `tmp_path / "run"` until its input ends."""
    arguments = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(arguments, stdin=PIPE, stdout=PIPE, text=True) as other:
        assert other.stdout.readline() == "inside\n"
        yield other


def test_a_second_command_in_a_folder_is_refused_and_told_who_is_there(tmp_path, other_command):
    with pytest.raises(ConfigError, match="Another command works in") as caught:
        with only_process_in(tmp_path / "run"):
            pass
    said = f"process {other_command.pid} on {gethostname()} since 20"
    assert said in caught.value.problem
    assert str(tmp_path / "run") in caught.value.problem.split("since")[1], "its command line"
    other_command.communicate()
    with only_process_in(tmp_path / "run"):
        assert (tmp_path / "run" / ".owner.json").is_file()
    assert not (tmp_path / "run" / ".owner.json").exists()


def test_a_command_that_is_killed_leaves_the_folder_free(tmp_path, other_command):
    other_command.kill()
    other_command.wait()
    with only_process_in(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / ".owner.json").read_text())["pid"] == os.getpid()


def test_the_other_processes_of_a_launcher_need_no_lock(tmp_path, other_command, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with only_process_in(tmp_path / "run"):
        pass
