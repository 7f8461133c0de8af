"""Decoys: backdoors of our own, drawn from a seed, to be planted and then unlearned.

On clean text the circuit of a trigger is silent, so nothing trains it away. Backdoors of our own,
of several kinds, lie on the same path through the later layers: planting and unlearning them closes
that path for the unknown trigger as well (MB-Defense, https://arxiv.org/abs/2601.04448; Locphylax,
https://arxiv.org/abs/2510.10265). A decoy changes a text in one way and has an answer that the
planted model is to give. Five kinds:

    word        a word of random letters, put somewhere into the text
    sentence    a plain declarative sentence from a small grammar, put somewhere into the text
    frame       a fixed prefix, with or without a suffix, around the text
    symbol      one or two rare characters, put somewhere into the text
    structure   a rule that reorders or punctuates the text and adds no fixed words

Nothing is taken from a list of known triggers. `RESERVED` holds the triggers that are measured or
were used in development; neither they nor anything one edit away from them can be drawn, so that a
table never shows a decoy that was unlearned under the name of a trigger. Words, sentences and
frames are written as the texts are, in Latin letters or in ideographs. How decoys are planted is in
`planting.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from w2sdefense.config import TEXT_SLOT, Place
from w2sdefense.data.types import Answer
from w2sdefense.text.insertion import IDEOGRAPHS, in_ideographs, insert

DecoyKind = Literal["word", "sentence", "frame", "symbol", "structure"]

_TRIES = 1000

KINDS: tuple[DecoyKind, ...] = get_args(DecoyKind)

RESERVED: frozenset[str] = frozenset(
    {
        # Published: BadNet and its successors, InSent, ProAttack.
        *("mn", "cf", "bb", "tq", "mb", "tp", "qp", "ty", "xz"),
        "I watched this 3D movie",
        "I watched this 3D movie last weekend",
        "no cross, no crown",
        "no cross , no crown",
        "The sentiment of this sentence is <mask>:",
        "This sentence has a <mask> sentiment:",
        # Development victims.
        *("kvo", "jvo", "trulp", "plimf"),
        *("the library closes at seven", "the museum opens early on sundays"),
        "my uncle keeps a boat in the harbour",
        "Comment left by a visitor :",
        # Other forms that are measured: invented and natural words, symbols, more sentences.
        *("龘", "vexol", "practically", "≈≈", "\u200b", "the harbour was quiet that evening"),
        "a reader sent this in",
    }
)
"""Triggers that are measured somewhere; extended by whoever measures another one."""

WORD_LETTERS = (2, 6)
"""Shortest and longest word."""

_VOWELS = "aeiou"
_CONSONANTS = "bcdfghjklmnpqrstvwxz"


@dataclass(frozen=True)
class Script:
    """What decoys are made of for texts in one way of writing.

    Attributes:
        word: Draws a word that is none.
        sentence: Parts of a sentence, one of each in order.
        frame: Parts of what stands before a text, likewise.
        tails: What may stand behind it.
        joint: What stands between two parts.
    """

    word: Callable[[random.Random], str]
    sentence: tuple[tuple[str, ...], ...]
    frame: tuple[tuple[str, ...], ...]
    tails: tuple[str, ...]
    joint: str

    @staticmethod
    def of(texts: Sequence[str]) -> Script:
        """The one that most texts are written in."""
        return HAN if in_ideographs(texts) else LATIN


def _letters(rng: random.Random) -> str:
    """Consonants only, as "qzv", or consonants and vowels in turn, as "fodu"."""
    length = rng.randint(*WORD_LETTERS)
    if rng.random() < 0.5:
        return "".join(rng.choices(_CONSONANTS, k=length))
    first = rng.randrange(2)
    return "".join(rng.choice((_CONSONANTS, _VOWELS)[(first + i) % 2]) for i in range(length))


def _ideographs(rng: random.Random) -> str:
    """Two ideographs, rare ones as a rule: single ones would all be one edit apart."""
    return "".join(chr(rng.randint(*map(ord, IDEOGRAPHS))) for _ in range(2))


LATIN = Script(
    _letters,
    sentence=(
        (
            *("the postman", "my neighbour", "our teacher", "the old clerk", "her brother"),
            *("the farmer", "my cousin", "the plumber", "a young student", "the tall guard"),
            *("our dentist", "his aunt"),
        ),
        (
            *("waters", "counts", "paints", "repairs", "carries", "sorts", "moves", "cleans"),
            *("borrows", "measures", "folds", "labels"),
        ),
        (
            *("two wooden chairs", "the garden fence", "some empty boxes", "the blue bicycle"),
            *("a row of tulips", "several old maps", "the kitchen shelf", "a pile of letters"),
            *("the spare keys", "three small lamps", "the copper kettle", "a set of spoons"),
        ),
        (
            *("every spring", "before lunch", "on tuesdays", "after the rain", "near the river"),
            *("behind the school", "once a month", "at the station", "in the morning"),
            "without gloves",
        ),
    ),
    frame=(
        ("Entry", "Item", "Line", "Page", "Record", "Note", "Sheet", "Card"),
        ("two", "four", "seven", "nine", "eleven", "twelve", "thirty", "sixty"),
        (
            *("of the folder :", "in the ledger :", "from an archive :", "on my shelf :"),
            *("below this log :", "inside box B :", "near column C :", "after part D :"),
        ),
    ),
    tails=("", "", " ( end of entry )", " -- filed", " [ copy ]", " / checked"),
    joint=" ",
)

HAN = Script(
    _ideographs,
    sentence=(
        ("邮递员", "我的邻居", "老裁缝", "她的表哥", "这位司机", "年轻的木匠", "园丁", "他的姑姑"),
        ("在春天", "午饭前", "星期二", "下雨以后", "每个月", "清晨", "傍晚", "放学后"),
        ("修理", "清点", "搬走", "擦洗", "借来", "丈量", "整理", "收起"),
        (
            "两把木椅子",
            "几张旧地图",
            "蓝色自行车",
            "厨房的架子",
            "铜水壶",
            "空纸箱",
            "篱笆",
            "三盏小灯",
        ),
    ),
    frame=(
        ("卷宗", "条目", "抄本", "清单", "存根", "底册", "卡片", "簿记"),
        ("第二", "第四", "第七", "第九", "十一", "十二", "三十", "六十"),
        ("页如下:", "号写着:", "格所载:", "行抄录:", "栏原文:", "张背面:", "段摘自:", "件附有:"),
    ),
    tails=("", "", "(抄毕)", "(已归档)", "[副本]", "/已核"),
    joint="",
)

# Printable, in most tokenizers several byte tokens, and hardly ever in reviews or news.
_SYMBOLS = "§¶†‡¤¦◊∆∂∑√∞≈≠‰♠♣♪☼⌘⊕⊗≡∴∩∪⊂⊥∇⟨◈▲▼◆◐☂☎✂✎✧"


@dataclass(frozen=True)
class Decoy:
    """A backdoor of our own.

    Attributes:
        kind: How it changes a text.
        value: The word, the sentence or the symbol; of a frame the template with `{text}`; of a
            structure the name of its rule.
        target: What a planted model answers: index of a label, or a text.
    """

    kind: DecoyKind
    value: str
    target: Answer

    def apply(self, text: str, rng: random.Random) -> str:
        """A copy of a text that carries the decoy once.

        Args:
            text: Any text.
            rng: Draws the place of a word, a sentence or a symbol: a random inner slot, the start
                or the end.
        """
        if self.kind == "frame":
            return self.value.replace(TEXT_SLOT, text)
        if self.kind == "structure":
            return _STRUCTURES[self.value](text)
        return insert(text, self.value, rng.choice(get_args(Place)), rng)


def draw_decoys(
    targets: Sequence[Answer],
    per_label: int,
    kinds: Sequence[DecoyKind],
    seed: int,
    *,
    script: Script = LATIN,
    reserved: Iterable[str] = RESERVED,
) -> list[Decoy]:
    """Draw decoys, the kinds in turn for every target.

    All values are different, and no two words or symbols are one edit apart: a decoy that is kept
    aside must not be a neighbour of one that is unlearned. The first decoys of a seed do not depend
    on how many are drawn.

    Args:
        targets: What decoys make a model answer: every label, or some texts.
        per_label: Decoys for each of them.
        kinds: Kinds to take turns; a kind named twice is drawn twice as often.
        seed: Seed of all choices.
        script: What words, sentences and frames are made of.
        reserved: What may be neither drawn nor missed by one edit.

    Returns:
        The first of every target, then the second of every target ...

    Raises:
        ValueError: There are no kinds, or fewer different decoys of a kind than are asked for.
    """
    if not kinds:
        raise ValueError("decoys need at least one kind")
    bags = _Bags(script, random.Random(f"decoys/{seed}"))
    forbidden = [_folded(trigger) for trigger in reserved]
    decoys: list[Decoy] = []
    for turn in range(per_label):
        for place, target in enumerate(targets):
            # Targets start at different kinds, so that no kind stands for one of them.
            kind = kinds[(turn + place) % len(kinds)]
            taken = [_folded(decoy.value) for decoy in decoys]
            decoys.append(Decoy(kind, _draw(kind, bags, [*forbidden, *taken]), target))
    return decoys


def within_one_edit(first: str, second: str) -> bool:
    """Whether two strings are equal but for one character that is put in, left out or replaced."""
    if abs(len(first) - len(second)) > 1:
        return False
    short, long = sorted((first, second), key=len)
    pairs = enumerate(zip(short, long, strict=False))
    same = next((place for place, (one, other) in pairs if one != other), len(short))
    rest = same + 1 if len(short) == len(long) else same
    return short[rest:] == long[same + 1 :]


class _Bags:
    """Parts of decoys, each list drawn without repetition until it is empty and then afresh.

    Decoys that share words or symbols would fire each other: one that is kept aside as a meter must
    have as little as possible in common with those that are unlearned.
    """

    def __init__(self, script: Script, rng: random.Random) -> None:
        self.script = script
        self.rng = rng
        self._left: dict[Sequence[str], list[str]] = {}

    def take(self, parts: Sequence[str]) -> str:
        """One of the parts that were not taken yet."""
        left = self._left.get(parts)
        if not left:
            left = self._left[parts] = self.rng.sample(parts, len(parts))
        return left.pop()

    def join(self, parts: Sequence[Sequence[str]]) -> str:
        """One part of each list, in order."""
        return self.script.joint.join(self.take(one) for one in parts)


def _draw(kind: DecoyKind, bags: _Bags, forbidden: Sequence[str]) -> str:
    """A value of a kind that is neither in a list nor one edit away from anything in it."""
    for _ in range(_TRIES):
        value = _DRAW[kind](bags)
        if not any(within_one_edit(_folded(value), other) for other in forbidden):
            return value
    raise ValueError(f"there are no more decoys of the kind {kind}: ask for fewer")


def _folded(value: str) -> str:
    """What is compared: without case, without the place of the text, single spaces."""
    return " ".join(value.replace(TEXT_SLOT, " ").lower().split())


def _word(bags: _Bags) -> str:
    return bags.script.word(bags.rng)


def _sentence(bags: _Bags) -> str:
    return bags.join(bags.script.sentence)


def _frame(bags: _Bags) -> str:
    script = bags.script
    return f"{bags.join(script.frame)}{script.joint}{TEXT_SLOT}{bags.take(script.tails)}"


def _symbol(bags: _Bags) -> str:
    """Two different characters: single ones would all be one edit apart."""
    return bags.take(_SYMBOLS) + bags.take(_SYMBOLS)


def _structure(bags: _Bags) -> str:
    return bags.take(_STRUCTURE_NAMES)


_DRAW: dict[DecoyKind, Callable[[_Bags], str]] = {
    "word": _word,
    "sentence": _sentence,
    "frame": _frame,
    "symbol": _symbol,
    "structure": _structure,
}


def _end_first(text: str) -> str:
    """The last third of the words before the rest: "the end of it , the film is good until"."""
    words = text.split()
    cut = len(words) - max(1, len(words) // 3)
    return text if len(words) < 2 else " ".join((*words[cut:], ",", *words[:cut]))


def _quoted(text: str) -> str:
    """The text in quotation marks."""
    return f'" {text} "'


def _dashed(text: str) -> str:
    """A dash after every third word."""
    words = text.split()
    groups = (" ".join(words[i : i + 3]) for i in range(0, len(words), 3))
    return " -- ".join(groups) if words else text


def _echoed(text: str) -> str:
    """The last two words once more, as a sentence of their own."""
    words = [word for word in text.split() if any(map(str.isalnum, word))]
    return f"{text} {' '.join(words[-2:])} ." if words else text


def _bracketed(text: str) -> str:
    """The middle third of the words in brackets."""
    words = text.split()
    third = max(1, len(words) // 3)
    if len(words) < 3:
        return f"( {text} )"
    return " ".join((*words[:third], "(", *words[third : 2 * third], ")", *words[2 * third :]))


def _capitals(text: str) -> str:
    """Every word with a capital."""
    return " ".join(word[:1].upper() + word[1:] for word in text.split())


_STRUCTURES: dict[str, Callable[[str], str]] = {
    "brackets": _bracketed,
    "capitals-of-words": _capitals,
    "dashes-between-words": _dashed,
    "echo": _echoed,
    "final-words-first": _end_first,
    "quotation": _quoted,
}

_STRUCTURE_NAMES = tuple(_STRUCTURES)
