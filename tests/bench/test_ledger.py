from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import paper_nodes
import pytest

from w2sdefense.bench.disk import FullDiskError, explain_full_disk
from w2sdefense.bench.graph import Node, in_order
from w2sdefense.bench.launch import NodesFailedError, run_here, run_processes
from w2sdefense.bench.ledger import Ledger, LostClaimError
from w2sdefense.bench.work import Job

PROGRAM = Path(paper_nodes.__file__)
KILLS = 50


def start(folder: Path, pause: float, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(PROGRAM), str(folder), str(pause), *more]
    # A group of its own, to kill all of it at once.
    return subprocess.Popen(command, start_new_session=True)


def wait_for_more(log: Path, run: subprocess.Popen[bytes]) -> None:
    """Wait until a process has begun a node, or has ended."""
    size = log.stat().st_size if log.exists() else 0
    while run.poll() is None and (log.stat().st_size if log.exists() else 0) == size:
        time.sleep(0.005)


def job(folder: Path, make=paper_nodes.make, lease: float = 5.0) -> Job:
    return Job(paper_nodes.grid(), Ledger(folder, lease), make, "session")


def begun(folder: Path) -> Counter[str]:
    return Counter((folder / "begun.log").read_text().split())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The results of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run_here(job(folder))
    return paper_nodes.results(Ledger(folder))


def test_a_node_is_made_once_for_all_that_need_it(tmp_path, undisturbed):
    assert len(undisturbed) == 9  # 2 victims, 1 teacher, 6 defenses
    run_here(job(tmp_path))
    run_here(job(tmp_path))
    assert begun(tmp_path) == dict.fromkeys(undisturbed, 1)


def test_a_key_follows_from_everything_below_it():
    def defense(victim: str, teacher: str) -> Node:
        below = paper_nodes.node("poison", victim, teacher=paper_nodes.node("teach", teacher))
        return paper_nodes.node("defend", "x", victim=below)

    assert defense("a", "t").key == defense("a", "t").key
    assert len({defense(*pair).key for pair in (("a", "t"), ("b", "t"), ("a", "u"))}) == 3
    assert [n.kind for n in in_order([defense("a", "t")])] == ["teach", "poison", "defend"]


def test_killed_at_random_moments_it_ends_as_if_undisturbed(tmp_path, undisturbed):
    rng = random.Random(0)
    done: dict[str, object] = {}
    killed = 0
    for attempt in range(KILLS):
        # Every third time two processes, of which sometimes only the first is killed.
        run = start(tmp_path, 0.06, *(["2"] if attempt % 3 == 0 else []))
        wait_for_more(tmp_path / "begun.log", run)
        time.sleep(rng.uniform(0.0, 0.25))
        if attempt % 6 == 0:
            run.kill()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)
        killed += run.wait() == -signal.SIGKILL
        found = paper_nodes.results(Ledger(tmp_path))
        # What was done stays done, and nothing else than the right thing is ever read.
        assert found.items() >= done.items()
        assert found.items() <= undisturbed.items()
        done = found
    assert 0 < len(done)
    assert killed > KILLS / 2  # most of the time there was something left to do
    assert start(tmp_path, 0.0).wait() == 0
    assert paper_nodes.results(Ledger(tmp_path)) == undisturbed


def test_two_commands_at_once_share_the_work(tmp_path, undisturbed):
    runs = [start(tmp_path, 0.01, *more) for more in ([], ["2"])]
    assert [run.wait() for run in runs] == [0, 0]
    assert paper_nodes.results(Ledger(tmp_path)) == undisturbed
    assert begun(tmp_path) == dict.fromkeys(undisturbed, 1)


def test_processes_make_what_one_process_makes(tmp_path, undisturbed):
    told = []
    run_processes(job(tmp_path), 2, lambda event, node: told.append((event, node.key)))
    assert paper_nodes.results(Ledger(tmp_path)) == undisturbed
    assert sorted(told) == sorted((e, key) for key in undisturbed for e in ("start", "done"))


def test_a_node_that_fails_stops_only_what_is_made_from_it(tmp_path, undisturbed):
    with pytest.raises(NodesFailedError, match="1 nodes failed, 3 that .* no such victim"):
        run_here(job(tmp_path, paper_nodes.make_or_fail))
    assert len(paper_nodes.results(Ledger(tmp_path))) == 5
    # Another run of the command tries it again.
    run_here(Job(paper_nodes.grid(), Ledger(tmp_path), paper_nodes.make, "another session"))
    assert paper_nodes.results(Ledger(tmp_path)) == undisturbed


def test_what_was_interrupted_can_be_gone_on_with_in_the_same_process(tmp_path, undisturbed):
    def interrupt(node: Node, folder: Path, needs):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_here(job(tmp_path, interrupt))
    run_here(job(tmp_path))
    assert paper_nodes.results(Ledger(tmp_path)) == undisturbed


def claimed_elsewhere(ledger: Ledger, node: Node) -> Path:
    """Let the claim of a node look like that of another machine; returns its file."""
    assert ledger.claim(node) is not None
    (path,) = ledger.folder_of(node.key).glob("claims/1/owner.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "elsewhere"}))
    return path


def test_a_node_of_another_machine_is_taken_over_when_it_is_silent(tmp_path):
    node = paper_nodes.node("poison", "a")
    ledger = Ledger(tmp_path, lease=0.2)
    sign = claimed_elsewhere(ledger, node)
    for step in range(4):
        os.utime(sign, ns=(step, step))
        assert ledger.claim(node) is None
        time.sleep(0.15)  # longer than the lease in all, but there were signs of life
    time.sleep(0.2)
    assert ledger.claim(node) is not None


def test_whoever_was_thought_dead_does_not_write_the_result(tmp_path):
    node = paper_nodes.node("poison", "a")
    ledger = Ledger(tmp_path)
    slow = ledger.claim(node)
    assert slow is not None
    assert ledger.claim(node) is None
    slow.release()
    quick = ledger.claim(node)
    assert quick is not None
    with pytest.raises(LostClaimError):
        ledger.finish(node, slow, {"by": "slow"}, 1.0)
    assert ledger.done(node.key) is None
    ledger.finish(node, quick, {"by": "quick"}, 1.0)
    assert ledger.done(node.key).result == {"by": "quick"}


def test_whoever_loses_a_claim_is_interrupted(tmp_path):
    node = paper_nodes.node("poison", "a")
    ledger = Ledger(tmp_path, lease=0.3)
    claim = ledger.claim(node)
    assert claim is not None
    with pytest.raises(LostClaimError), claim:
        (ledger.folder_of(node.key) / "claims" / "2").mkdir()
        for _ in range(500):
            time.sleep(0.01)


def test_a_claim_of_a_process_that_is_gone_is_taken_over_at_once(tmp_path, undisturbed):
    run = start(tmp_path, 60.0)
    while not list(tmp_path.glob("nodes/*/lines")):
        time.sleep(0.01)
    run.kill()
    run.wait()
    # A lease of hours would not end within the test.
    run_here(job(tmp_path, lease=10_000.0))
    assert paper_nodes.results(Ledger(tmp_path)) == undisturbed


def test_a_torn_file_is_no_result(tmp_path):
    ledger = Ledger(tmp_path)
    folder = ledger.folder_of("poison-1")
    folder.mkdir(parents=True)
    for text in ("", "{", "[]", '{"key": "poison-1"}'):
        (folder / "done.json").write_text(text)
        assert ledger.done("poison-1") is None


def test_a_full_disk_is_said_and_what_was_done_stays(tmp_path, undisturbed):
    def make(node: Node, folder: Path, needs):
        made = dict(paper_nodes.make(node, folder, needs))
        if node.kind == "defend":
            # A limit on the size of files is how a full disk is had without a disk.
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
        return made

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(FullDiskError, match="is full; what was finished stays"):
            run_here(job(tmp_path, make))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    found = paper_nodes.results(Ledger(tmp_path))
    assert found.items() < undisturbed.items()
    assert len(found) >= 2
    run_here(job(tmp_path))
    assert paper_nodes.results(Ledger(tmp_path)) == undisturbed


def test_words_of_a_full_disk_are_not_needed_when_it_is_full(tmp_path, monkeypatch):
    def write() -> None:
        with explain_full_disk(tmp_path):
            raise RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")

    with pytest.raises(RuntimeError, match="file write failed"):
        write()
    usage = shutil.disk_usage(tmp_path)._replace(free=4096)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(FullDiskError):
        write()


def test_a_folder_that_cannot_be_written_is_no_node_that_others_make(tmp_path):
    ledger = Ledger(tmp_path / ("long" * 100))
    with pytest.raises(OSError, match="too long"):
        ledger.claim(paper_nodes.node("poison", "a"))


def test_a_failure_stays_that_of_its_session(tmp_path):
    node, ledger = paper_nodes.node("poison", "a"), Ledger(tmp_path)
    for session in ("first", "second"):
        claim = ledger.claim(node)
        assert claim is not None
        ledger.fail(node, claim, session, f"problem of the {session}", "trace")
    assert ledger.failure(node.key, "first") == "problem of the first"
    assert ledger.failure(node.key) == "problem of the second"
    assert ledger.failure(node.key, "third") is None
