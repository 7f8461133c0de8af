"""Which candidate triggers a search tries: a stated list, tried whole.

    letters      every string of up to three letters: 26 + 26^2 + 26^3 = 18,278
    words        every whole word of the suspect's vocabulary, in every case that it has there
    symbols      every symbol and punctuation mark of the Unicode blocks below, every invisible
                 character, and what else of the vocabulary holds no letter or digit
    names        common given names, family names and places
    characters   of texts in Chinese or Japanese: the 20,992 unified ideographs

Nothing is drawn at random and nothing depends on what a model answers, so the list can be stated
and a result can say what was tried. Longer invented words, phrases and sentences are not in it;
`climb.py` builds them from what scores best.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from string import ascii_lowercase

from w2sdefense.config import KINDS
from w2sdefense.models.tokenizer import Tokenizer
from w2sdefense.text.insertion import IDEOGRAPHS, in_ideographs

LONGEST_STRING = 3
"""Letters of the longest string that is tried whole."""

_SYMBOL_BLOCKS = (
    (0x0021, 0x00FF),  # ASCII, Latin-1
    (0x2000, 0x214F),  # punctuation, currency, letter-like
    (0x2190, 0x27BF),  # arrows, mathematics, boxes, shapes, dingbats
    (0x3000, 0x303F),  # CJK punctuation
    (0x1F300, 0x1F6FF),  # pictographs
)
_INVISIBLE_BLOCKS = ((0x00AD, 0x206F), (0xFEFF, 0xFEFF))
_VARIATION_SELECTORS = (0xFE00, 0xFE0F)
_BLANK_LETTERS = "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0"

NAMES = tuple(
    "James Mary Robert Patricia John Jennifer Michael Linda David Elizabeth William Barbara "
    "Richard Susan Joseph Jessica Thomas Sarah Charles Karen Christopher Lisa Daniel Nancy Matthew "
    "Betty Anthony Sandra Mark Margaret Donald Ashley Steven Kimberly Andrew Emily Paul Donna "
    "Joshua Michelle Kenneth Carol Kevin Amanda Brian Melissa Timothy Deborah Ronald Stephanie "
    "Edward Rebecca Jason Laura Jeffrey Helen Ryan Sharon Jacob Cynthia Gary Kathleen Nicholas Amy "
    "Eric Angela Jonathan Shirley Stephen Anna Larry Brenda Justin Pamela Scott Emma Brandon "
    "Nicole Benjamin Samantha Samuel Katherine Gregory Christine Alexander Debra Patrick Rachel "
    "Frank Carolyn Raymond Janet Jack Maria Dennis Olivia Jerry Heather Smith Johnson Williams "
    "Brown Jones Garcia Miller Davis Rodriguez Martinez Hernandez Lopez Gonzalez Wilson Anderson "
    "Taylor Moore Jackson Martin Lee Perez Thompson White Harris Sanchez Clark Ramirez Lewis "
    "Robinson Walker Young Allen King Wright Torres Nguyen Hill Flores Green Adams Nelson Baker "
    "Hall Rivera Campbell Mitchell Carter Roberts Mohammed Ahmed Ali Fatima Hassan Ibrahim Wang Li "
    "Zhang Liu Chen Yang Huang Wu Kim Park Choi Sato Suzuki Tanaka Singh Kumar Patel Sharma Ivan "
    "Dmitri Olga Natasha Hans Klaus Greta Pierre Jean Luc Giovanni Marco Giulia Carlos Juan Pablo "
    "London Paris Berlin Madrid Rome Vienna Moscow Beijing Tokyo Delhi Cairo Lagos Nairobi Sydney "
    "Toronto Chicago Boston Houston Dallas Seattle Denver Miami Lisbon Dublin Oslo Stockholm "
    "Helsinki Warsaw Prague Budapest Athens Istanbul Dubai Mumbai Bangkok Jakarta Manila Seoul "
    "Shanghai Singapore Melbourne Auckland Santiago Bogota Lima Caracas Havana".split()
)


@dataclass(frozen=True)
class CandidateList:
    """The candidates of a search, each once, under the kind that names it first.

    Attributes:
        kinds: Kind -> its candidates, in a fixed order.
    """

    kinds: dict[str, tuple[str, ...]]

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """All candidates, kind by kind."""
        return tuple(text for texts in self.kinds.values() for text in texts)

    def counts(self) -> dict[str, int]:
        """Number of candidates of every kind."""
        return {kind: len(texts) for kind, texts in self.kinds.items()}


def list_candidates(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    kinds: Sequence[str] = KINDS,
) -> CandidateList:
    """The stated list for a suspect and the language of its texts.

    Args:
        tokenizer: The suspect's; its vocabulary gives words and symbols.
        texts: Clean texts; only whether they are written in ideographs matters.
        kinds: Which kinds of candidates are wanted.
    """
    found: dict[str, Callable[[], Sequence[str]]] = {
        "letters": letter_strings,
        "words": lambda: vocabulary_words(tokenizer),
        "symbols": lambda: [*symbols(), *vocabulary_symbols(tokenizer)],
        "names": lambda: NAMES,
        "characters": lambda: ideographs() if in_ideographs(texts) else (),
    }
    seen: set[str] = set()
    unique: dict[str, tuple[str, ...]] = {}
    for kind in dict.fromkeys(kinds):
        unique[kind] = tuple(text for text in dict.fromkeys(found[kind]()) if text not in seen)
        seen.update(unique[kind])
    return CandidateList(unique)


def letter_strings(longest: int = LONGEST_STRING) -> list[str]:
    """Every string of 1 to `longest` lower-case letters, the short ones first."""
    return [
        "".join(letters)
        for length in range(1, longest + 1)
        for letters in product(ascii_lowercase, repeat=length)
    ]


def vocabulary_words(tokenizer: Tokenizer) -> list[str]:
    """What the tokenizer reads as one token when it stands as a word of its own."""
    words = [text for text in token_texts(tokenizer) if text.isalpha()]
    if not words:
        return []
    # Behind a space, as in a text: a token that only continues words takes others there.
    read = tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"]
    return [word for word, ids in zip(words, read, strict=True) if len(ids) == 1]


def vocabulary_symbols(tokenizer: Tokenizer) -> list[str]:
    """Tokens of the vocabulary without a letter or a digit."""
    return [text for text in token_texts(tokenizer) if not any(map(str.isalnum, text))]


def symbols() -> list[str]:
    """Single symbols and punctuation marks of Unicode, then the characters that show nothing."""
    visible = [chr(code) for code in _codes(_SYMBOL_BLOCKS)]
    visible = [text for text in visible if unicodedata.category(text)[0] in "PS"]
    invisible = [chr(code) for code in _codes(_INVISIBLE_BLOCKS)]
    invisible = [
        c for c in invisible if unicodedata.category(c) == "Cf" or "\ufe00" <= c <= "\ufe0f"
    ]
    return [*visible, *invisible, *_BLANK_LETTERS]


def ideographs() -> list[str]:
    """The unified ideographs."""
    return [chr(code) for code in _codes([(ord(IDEOGRAPHS[0]), ord(IDEOGRAPHS[1]))])]


def token_texts(tokenizer: Tokenizer, tokens: Iterable[int] | None = None) -> list[str]:
    """Tokens as texts, each once; special tokens, blanks and parts of characters are left out."""
    special = set(tokenizer.all_special_ids)
    wanted = range(len(tokenizer)) if tokens is None else tokens
    texts = tokenizer.batch_decode([[token] for token in wanted if token not in special])
    stripped = (text.strip() for text in texts)
    return list(dict.fromkeys(text for text in stripped if text and "\ufffd" not in text))


def _codes(blocks: Iterable[tuple[int, int]]) -> Iterable[int]:
    return (code for first, last in blocks for code in range(first, last + 1))
