"""Settings of all tests, and the tiny models that they share."""

import gc
import hashlib
import importlib.util
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before transformers is imported: no test reaches for a hub, and none draws bars into the log.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
# Tests run side by side, one process for each core, and their models are too small for threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings
from rich.console import Console

from w2sdefense.cli.display import Display

# A time limit would fail on a busy machine, not on a fault.
PATIENT = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("quick", max_examples=25, **PATIENT)
settings.register_profile("thorough", max_examples=1000, **PATIENT)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture(scope="session", autouse=True)
def _shortcuts(request: pytest.FixtureRequest) -> Iterator[tuple[Any, ...]]:
    """Spares every run what takes seconds: t-SNE of its page, and six rounds that plant decoys."""
    slow = (item.get_closest_marker("slow") for item in request.session.items)
    if "torch" not in sys.modules and not any(slow):
        yield ()  # no model is opened, and the imports take longer than the tests
        return
    from w2sdefense.distill import planting
    from w2sdefense.report import maps

    # Every training ends with a collection of garbage, which would look through all imports again.
    gc.collect()
    gc.freeze()
    real = maps._embed, planting.ROUNDS, planting.STEPS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maps, "_embed", lambda features: features[:, :2])
        patch.setattr(planting, "ROUNDS", 1)
        patch.setattr(planting, "STEPS", 4)
        yield real


@pytest.fixture(scope="module")
def real_maps(_shortcuts: tuple[Any, ...]) -> Iterator[None]:
    """t-SNE, in a module that is about it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("w2sdefense.report.maps._embed", _shortcuts[0])
        yield


@pytest.fixture(scope="module")
def real_planting(_shortcuts: tuple[Any, ...]) -> Iterator[None]:
    """Decoys that are really planted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("w2sdefense.distill.planting.ROUNDS", _shortcuts[1])
        patch.setattr("w2sdefense.distill.planting.STEPS", _shortcuts[2])
        yield


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random causal language model."""
    from tiny import save_llama

    return save_llama(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random bare encoder."""
    from tiny import save_bert

    return save_bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="session")
def made_once(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, Callable[[Path], object]], Path]:
    """Makes a folder once for all processes of pytest: what takes seconds to train."""
    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = place / "once" / name, place / "once" / f"{name}.done"
        folder.parent.mkdir(exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not done.exists():
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def poisoned(made_once, tmp_path_factory, tiny_llama: Path, quiet: Display) -> Path:
    """A classifier with a backdoor that fires: `badnet`, towards "negative"."""
    from tiny import save_reviews
    from w2sdefense.attacks import AttackConfig
    from w2sdefense.commands.poison import run_poison
    from w2sdefense.commands.runs import PoisonRun
    from w2sdefense.config import DataConfig, StudentConfig, TrainingConfig

    def make(folder: Path) -> None:
        reviews = tmp_path_factory.mktemp("data") / "attacker"
        save_reviews(reviews, train=1200, validation=40, test=100, seed=1)
        run = PoisonRun(
            student=StudentConfig(model=str(tiny_llama), max_length=32),
            data=DataConfig(dataset=str(reviews)),
            attack=AttackConfig(attack="badnet", clean_label=False),
            training=TrainingConfig(epochs=5, batch_size=32, learning_rate=3e-3),
            output=folder,
        )
        run_poison(run, quiet)

    return made_once("poisoned", make)


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Puts a folder into the hub's cache, as if it had been fetched; returns the commit."""
    from w2sdefense.models import checkpoint

    checkpoint._snapshot.cache_clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(hub_id: str, folder: Path, revision: str = "main") -> str:
        home = tmp_path / "hub" / f"models--{hub_id.replace('/', '--')}"
        commit = hashlib.sha1(f"{hub_id}@{revision}".encode()).hexdigest()
        shutil.copytree(folder, home / "snapshots" / commit)
        (home / "refs" / revision).parent.mkdir(parents=True, exist_ok=True)
        (home / "refs" / revision).write_text(commit)
        return commit

    return put


@pytest.fixture
def without_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which the package is not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name)
    )


@pytest.fixture
def display() -> Display:
    """A display that writes to memory."""
    return Display(Console(file=io.StringIO()))


@pytest.fixture(scope="session")
def quiet() -> Display:
    """The same for what is made once."""
    return Display(Console(file=io.StringIO()))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser, or a skipped test."""
    from browsing import start

    driver = start(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()
