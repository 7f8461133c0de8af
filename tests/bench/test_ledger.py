import random
import resource
import shutil
import signal
import time
from collections import Counter
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import paper_nodes
import pytest

from w2sdefense.bench.ledger import FullDiskError, Ledger, Node, in_order
from w2sdefense.bench.runner import Job, NodesFailedError, run_here
from w2sdefense.version import code_version

KILLS = 6


def start(folder: Path, pause: float) -> BaseProcess:
    run = get_context("fork").Process(target=paper_nodes.work_on, args=(folder, pause))
    run.start()
    return run


def ended(run: BaseProcess) -> int | None:
    run.join()
    return run.exitcode


def wait_for_more(log: Path, run: BaseProcess) -> None:
    """Wait until a process has begun a node, or has ended."""
    size = log.stat().st_size if log.exists() else 0
    while run.is_alive() and (log.stat().st_size if log.exists() else 0) == size:
        time.sleep(0.005)


def job(folder: Path, make=paper_nodes.make, **more) -> Job:
    return Job(paper_nodes.grid(), Ledger(folder), make, **more)


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
    told = []
    run_here(job(tmp_path, tell=lambda event, node: told.append((event, node.key))))
    run_here(job(tmp_path))
    assert begun(tmp_path) == dict.fromkeys(undisturbed, 1)
    assert sorted(told) == sorted((e, key) for key in undisturbed for e in ("start", "done"))


def test_a_key_follows_from_everything_below_it():
    def defense(victim: str, teacher: str) -> Node:
        below = paper_nodes.node("poison", victim, teacher=paper_nodes.node("teach", teacher))
        return paper_nodes.node("defend", "x", victim=below)

    assert defense("a", "t").key == defense("a", "t").key
    assert len({defense(*pair).key for pair in (("a", "t"), ("b", "t"), ("a", "u"))}) == 3
    assert [n.kind for n in in_order([defense("a", "t")])] == ["teach", "poison", "defend"]


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_as_if_undisturbed(tmp_path, undisturbed):
    rng = random.Random(0)
    done: dict[str, object] = {}
    killed = 0
    for _ in range(KILLS):
        run = start(tmp_path, 0.06)
        wait_for_more(tmp_path / "begun.log", run)
        time.sleep(rng.uniform(0.0, 0.25))
        run.kill()
        killed += ended(run) == -signal.SIGKILL
        found = paper_nodes.results(Ledger(tmp_path))
        # What was done stays done, and nothing else than the right thing is ever read.
        assert found.items() >= done.items()
        assert found.items() <= undisturbed.items()
        done = found
    assert killed > KILLS / 2  # most of the time there was something left to do
    assert ended(start(tmp_path, 0.0)) == 0
    assert paper_nodes.results(Ledger(tmp_path)) == undisturbed


@pytest.mark.slow
def test_two_commands_at_once_share_the_work(tmp_path, undisturbed):
    runs = [start(tmp_path, 0.01) for _ in range(2)]
    assert [ended(run) for run in runs] == [0, 0]
    assert paper_nodes.results(Ledger(tmp_path)) == undisturbed
    assert begun(tmp_path) == dict.fromkeys(undisturbed, 1)


def test_a_node_that_fails_stops_only_what_is_made_from_it(tmp_path, undisturbed):
    with pytest.raises(NodesFailedError, match="1 nodes failed, and 3 nodes .* no such victim"):
        run_here(job(tmp_path, paper_nodes.make_or_fail))
    assert len(paper_nodes.results(Ledger(tmp_path))) == 5
    (failed,) = (n.key for n in paper_nodes.grid() if Ledger(tmp_path).failure(n.key))
    assert "ValueError" in (Ledger(tmp_path).folder_of(failed) / "failed.json").read_text()
    # Another run of the command tries it again.
    run_here(job(tmp_path))
    assert paper_nodes.results(Ledger(tmp_path)) == undisturbed
    assert Ledger(tmp_path).failure(failed) is None


def test_an_interrupted_run_continues_in_the_same_process(tmp_path, undisturbed):
    def interrupt(node: Node, folder: Path, needs):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_here(job(tmp_path, interrupt))
    run_here(job(tmp_path))
    assert paper_nodes.results(Ledger(tmp_path)) == undisturbed


def test_a_result_says_which_code_made_it(tmp_path, undisturbed):
    run_here(job(tmp_path))
    assert {done.code for done in Ledger(tmp_path).all_done()} == {code_version()}


def test_a_half_written_result_does_not_count(tmp_path):
    ledger = Ledger(tmp_path)
    folder = ledger.folder_of("poison-1")
    folder.mkdir(parents=True)
    for text in ("", "{", "[]", '{"key": "poison-1"}'):
        (folder / "done.json").write_text(text)
        assert ledger.done("poison-1") is None


def test_a_full_disk_is_reported_and_finished_nodes_stay(tmp_path, undisturbed):
    def make(node: Node, folder: Path, needs):
        made = dict(paper_nodes.make(node, folder, needs))
        if node.kind == "defend":
            # A limit on the size of files is how a full disk is had without a disk.
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
        return made

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(FullDiskError, match="is full; finished results are kept"):
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
        with Ledger(tmp_path).explain_full_disk():
            raise RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")

    with pytest.raises(RuntimeError, match="file write failed"):
        write()
    usage = shutil.disk_usage(tmp_path)._replace(free=4096)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(FullDiskError):
        write()
