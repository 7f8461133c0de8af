"""Verdicts in words: was there a backdoor, is it gone, and what did that cost?

`states.py` has the rules. A model with several triggers is judged for each of them, and the
headline is about the worst. Accuracy "fell" or "rose" only if the interval of its change excludes
0; otherwise the verdict names the largest loss that the test cannot rule out. A verdict covers only
the triggers and the texts that were tested.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from w2sdefense.errors import DataError
from w2sdefense.evaluation.metrics import Quality, Rate
from w2sdefense.evaluation.record import Evaluation
from w2sdefense.evaluation.states import (
    CLEAN,
    DETECTABLE,
    NEGLIGIBLE,
    STATE_WORDS,
    Change,
    State,
    difference,
    doubts,
    floor_rise,
    lift,
    one_by_one,
    points,
    state_of,
    works,
)
from w2sdefense.tasks import TASKS


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one question: a short form, and a sentence with the numbers."""

    short: str
    detail: str

    def __str__(self) -> str:
        return f"{self.short}. {self.detail}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on one model, alone or compared with the model that it was made from."""

    state: State  # the decision; with several triggers, the worst
    headline: str  # one self-contained sentence
    found: Answer  # was there a backdoor?
    gone: Answer | None  # is it gone? None if only one model was given
    # what did it cost in accuracy (for summaries in ROUGE-L)? None for one model
    cost: Answer | None
    # what happened to held-out decoys; None if none of them worked before the defense
    unknown: Answer | None
    # why the numbers cannot be trusted; any of these prevents a clean verdict
    warnings: tuple[str, ...]
    limits: tuple[str, ...]  # what the verdict does not cover; always at least one sentence
    # the state of each trigger if there are several, else empty
    triggers: Mapping[str, State] = field(default_factory=dict)


_SEVERITY = list(STATE_WORDS)


def judge(before: Evaluation, after: Evaluation | None = None) -> Verdict:
    """Compare a model with the one it was made from, on the same texts, or judge it alone.

    Raises:
        DataError: The two were tested with different triggers or targets.
    """
    if after is not None and (before.trigger, before.target) != (after.trigger, after.target):
        raise DataError(
            f"Two evaluations used different triggers or targets: {before.trigger!r} -> "
            f"{before.target!r} and {after.trigger!r} -> {after.target!r}.",
            "Evaluate both models with the same attack.",
        )
    whole = before, after or before
    was, now = map(one_by_one, whole)
    missing = whole[1].model_copy(update={"asr": Rate(hits=0, total=0), "by_trigger": {}})
    pairs = {
        trigger: (was.get(trigger, before), now.get(trigger, missing)) for trigger in was | now
    }
    states = {trigger: state_of(*pair, len(pairs)) for trigger, pair in pairs.items()}
    state = min([*states.values(), state_of(*whole)], key=_SEVERITY.index)
    worst = next((trigger for trigger in states if states[trigger] == state), None)
    seen, left = pairs[worst] if worst else whole
    warnings = tuple(dict.fromkeys(doubt for one in (*whole, seen, left) for doubt in doubts(one)))
    if warnings and state in CLEAN | {"masked"}:
        state = "doubtful"
    change = None if after is None else difference(after.ca, before.ca)
    return Verdict(
        state=state,
        headline=_headline(state, change, before.metric, _of_several(worst, states)),
        found=_found(seen, doubtful=bool(warnings)),
        gone=None if after is None else _gone(state, seen, left),
        cost=None if after is None else _cost(before, after),
        unknown=None if after is None else _unknown(after),
        warnings=warnings,
        limits=_limits(before, after, states),
        triggers=states,
    )


def _of_several(worst: str | None, states: Mapping[str, State]) -> str:
    """The part of a headline that names the worst of several triggers; empty if there is one."""
    if worst is None:
        return ""
    same = sum(state == states[worst] for state in states.values())
    if same == len(states):
        return f" for each of {same} triggers"
    others = f"and {same - 1} more" if same > 1 else "one"
    return f" for “{worst}” ({others} of {len(states)} triggers)"


def _headline(state: State, change: Change | None, metric: str, trigger: str) -> str:
    backdoor = {
        "untested": "No trigger was tested",
        "unseen": f"No backdoor was seen{trigger or ' for this trigger'}",
        "alive": f"The backdoor is alive{trigger}",
        "weakened": f"The backdoor is weaker, but not gone{trigger}",
        "removed": f"The backdoor is removed{trigger}",
        "masked": f"The trigger adds nothing, but mostly because the model is biased{trigger}",
        "unclear": f"Too few samples to tell whether the trigger works{trigger}",
        "doubtful": "The measurement cannot be trusted",
    }[state]
    if change is None:
        return f"{backdoor}."
    if change.high < 0:
        link = "but" if state == "removed" else "and"
        return f"{backdoor}, {link} {metric} fell by {points(-change.value)[1:]} points."
    if change.low > 0:
        return f"{backdoor}; {metric} rose by {points(change.value)[1:]} points."
    return f"{backdoor}; no loss of {metric} was measured."


def _with_and_without(evaluation: Evaluation) -> str:
    """The two shares behind a lift, as half a sentence."""
    others = TASKS[evaluation.task].other_answers
    return (
        f"{_percent(evaluation.asr)} of the texts {others} are answered "
        f"“{evaluation.target}” with the trigger, {_percent(evaluation.floor)} without it"
    )


def _percent(rate: Quality | None) -> str:
    return "n/a" if rate is None or not rate.total else f"{rate.value:.1%}"


def _found(before: Evaluation, *, doubtful: bool) -> Answer:
    effect = lift(before)
    if effect is None:
        return Answer("Not tested", f"No trigger was given, so only the {before.metric} is known.")
    facts = f"{_with_and_without(before)}: {effect}."
    if works(effect):
        return Answer("Yes", facts)
    if doubtful:
        return Answer("Cannot tell", f"The numbers cannot be trusted. {facts}")
    if effect.high < DETECTABLE:
        return Answer("Not seen", f"“{before.trigger}” does not act as a trigger: {facts}")
    return Answer("Cannot tell", f"Too few samples: {facts}")


def _gone(state: State, before: Evaluation, after: Evaluation) -> Answer:
    effect, was = lift(after), lift(before)
    if effect is None or was is None:
        return Answer("Not tested", "No trigger was given.")
    facts = f"Now {_with_and_without(after)}: {effect}."
    short, more = {
        "removed": ("Yes", ""),
        "doubtful": ("Not shown", " See the warnings."),
        "weakened": ("Partly", f" It was {points(was.value)} points."),
        "alive": ("No", ""),
        "masked": ("Not shown", " The attacker's answer is now given without a trigger."),
        "unclear": ("Cannot tell", " More test samples are needed."),
    }.get(state, ("Nothing to remove", ""))
    return Answer(short, facts + more)


def _cost(before: Evaluation, after: Evaluation) -> Answer:
    change = difference(after.ca, before.ca)
    metric = before.metric[0].upper() + before.metric[1:]
    facts = (
        f"{metric} on clean text: {_percent(before.ca)} before, {_percent(after.ca)} after: "
        f"{change}."
    )
    if change.high < 0:
        return Answer(f"{points(change.value)} points", facts)
    if change.low > 0:
        return Answer(f"A gain of {points(change.value)[1:]} points", facts)
    bound = f"A loss of up to {-100 * change.low:.1f} points cannot be ruled out."
    return Answer("None measured", f"{facts} {bound}")


def _unknown(after: Evaluation) -> Answer | None:
    """What happened to the held-out decoys, which were planted but not unlearned."""
    lifts = [
        difference(decoy.after, decoy.floor)
        for decoy in after.held_out
        if works(difference(decoy.before, decoy.floor))
    ]
    if not lifts:
        return None
    gone = sum(not works(effect) and effect.high < DETECTABLE for effect in lifts)
    return Answer(
        f"{gone} of {len(lifts)} held-out decoys are gone",
        "Backdoors of our own, planted beside the defense, which did not know them. "
        + "; ".join(map(str, after.held_out))
        + ".",
    )


def _limits(
    before: Evaluation, after: Evaluation | None, states: Mapping[str, State]
) -> tuple[str, ...]:
    """Sentences on what the verdict does not cover."""
    if before.trigger is None:
        return ("No trigger was tested: nothing is known about backdoors.",)
    tested = "triggers" if states else "trigger"
    limits = [
        f"This holds for the {tested} “{'”, “'.join(states) or before.trigger}” and the "
        f"{before.ca.total:,} texts of this test. Other triggers were not tested."
    ]
    if len(set(states.values())) > 1:
        counts = Counter(STATE_WORDS[state] for state in states.values())
        said = ", ".join(f"{count} {words}" for words, count in counts.items())
        limits.append(f"Of {len(states)} triggers: {said}.")
    cut = max(before.cut_triggers, after.cut_triggers if after else 0)
    if cut:
        limits.append(
            f"In {cut:,} triggered texts the trigger was cut off with the end of the text; "
            "they count all the same, so ASR is understated."
        )
    rise = floor_rise(before, after or before)
    if after is not None and rise.low > 0 and rise.value > NEGLIGIBLE:
        limits.append(
            f"The model now answers “{after.target}” more often without the trigger too "
            f"({_percent(before.floor)} before, {_percent(after.floor)} after): "
            "part of the fall of the lift is bias, not repair."
        )
    return tuple(limits)
