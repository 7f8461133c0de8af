"""Work divided between the processes of a launcher (torchrun); a process alone does all of it.

Training divides its batches itself. Here are the answers to test texts: every process answers its
share and gets the others' answers, so that none waits for minutes at the end of a barrier. A model
that is in pieces on every process (FSDP) cannot answer a share on its own: it is made whole first
(`distill/pieces.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from accelerate.utils import gather_object

from w2sdefense.tasks import Prediction, Predictor
from w2sdefense.training.trainer import this_process


class DividedPredictor:
    """A predictor whose texts are divided between the processes.

    Args:
        predictor: The same model in every process.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def predict(
        self, texts: Sequence[str], progress: Callable[[int], None] | None = None
    ) -> list[Prediction]:
        """Answer every text; all processes must call it with the same texts and get all answers."""
        state = this_process()
        if state.num_processes == 1:
            return list(self._predictor.predict(texts, progress))
        mine = range(state.process_index, len(texts), state.num_processes)
        told = None if progress is None else _for_everyone(progress, len(mine), len(texts))
        answers = self._predictor.predict([texts[place] for place in mine], told)
        everybodys = gather_object(list(zip(mine, answers, strict=True)))
        return [answer for _, answer in sorted(everybodys, key=lambda pair: pair[0])]


def _for_everyone(
    progress: Callable[[int], None], mine: int, everyones: int
) -> Callable[[int], None]:
    """Progress through all texts, scaled from one process's share."""
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        before, done = done, done + more
        progress(done * everyones // mine - before * everyones // mine)

    return advance
