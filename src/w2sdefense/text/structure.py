"""Detects the structure S ( SBAR ) ( , ) ( NP ) ( VP ) ( . ) in a text, and finds finite verbs.

`has_template` checks the surface of the first sentence, in English and Chinese: a subordinating
word, a clause of a few words, a comma, and a main part. It does not check that the main part is
NP VP. By construction, nearly all texts of the embedded rewriter pass.

The lists of English auxiliaries, pronouns and determiners are complete. Other verbs are recognized
by a list of common ones and by their endings, which is wrong in about one of ten review sentences.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

AUXILIARIES = frozenset(
    "is are was were am be 's 're 'm has have had 've 'd does do did will would can could may "
    "might shall should must ca wo 'll isn't aren't wasn't weren't doesn't don't didn't won't "
    "wouldn't can't couldn't shouldn't hasn't haven't hadn't isnt dont cannot it's that's "
    "there's he's she's what's i'm i've i'd i'll you're you've you'll we're we've they're "
    "they've who's".split()
)
PRONOUNS = frozenset(
    "i you he she it we they this that these those there one someone everyone everybody nobody "
    "nothing something everything anyone anything".split()
)
DETERMINERS = frozenset(
    "the a an this that these those my your his her its our their some any no every each all "
    "both many most few several another such".split()
)
RELATIVES = frozenset("that which who whom whose what where when how why".split())
_PREPOSITIONS = frozenset(
    "of in on at by for with from to into about as than like over under through between without "
    "against during upon toward towards off out up".split()
)
_VERBS = frozenset(
    "seems seem seemed feels feel felt looks look looked makes make made gets get got goes go "
    "went comes come came gives give gave takes take took works work worked plays play played "
    "offers offer offered keeps keep kept proves prove proved shows show showed tells tell told "
    "says say said knows know knew thinks think thought wants want wanted needs need needed "
    "loves love loved likes liked hates hate hated enjoys enjoy enjoyed finds find found leaves "
    "leave left brings bring brought becomes become became remains remain remained manages "
    "manage managed fails fail failed succeeds succeed succeeded delivers deliver delivered "
    "provides provide provided captures capture captured explores explore explored lacks lack "
    "lacked suffers suffer suffered falls fall fell runs run ran turns turn turned moves moved "
    "stands stand stood sits sit sat lets holds held begins begin began starts ends ended lasts "
    "lasted costs uses used tries try tried hopes hoped deserves deserve deserved recommend "
    "recommends recommended bought buy buys reads writes wrote sees see saw hears heard means "
    "meant adds added lost loses lose won wins win beat beats killed kills announced announces "
    "unveiled rose fell dropped agreed plans planned expects expected reported reports claims "
    "claimed warned urged signed led leads faces faced met meets sent sends paid pays sold "
    "sells raised raises cut cuts hit hits set sets put puts opened opens closed closes happens "
    "happened appears appear appeared sounds sound belongs exists exist requires require rises "
    "grows grew wears wore touches evokes conveys transcends resembles reminds amounts builds "
    "depends does".split()
)
_SENTENCE_END = re.compile(r"[.!?。！？]+[\"'”’)]*(?=\s|$)|[。！？]+[”’）]*")
_NO_END = re.compile(
    r"(?:^|[\s(])(?:mr|mrs|ms|dr|st|jr|sr|vs|inc|ltd|co|corp|no|u\.s|[a-z])$", re.I
)

_CLEAR = {
    *("when whenever if because although though while whereas unless once wherever".split()),
    *("lest provided supposing".split()),
}
# Also prepositions or adverbs, so the words after them must look like a clause.
_AMBIGUOUS = {"as", "after", "before", "since", "until", "till", "so", "now", "even", "where"}
_SUBJECTS = frozenset("i you he she it we they people everyone anyone one".split())
_CHINESE = re.compile('^[“"]?(当|如果|虽然|尽管|因为|由于|既然|一旦|只要|即使)[^，,。！？]+[，,].+')
_WORD = re.compile(r"[^\W_][\w'’-]*|,")


def has_template(text: str) -> bool:
    """Whether a text appears to begin with a subordinate clause, a comma and a main part."""
    sentence = first_sentence(text).strip()
    if _CHINESE.match(sentence):
        return True
    words = [word.lower() for word in _WORD.findall(sentence)]
    if not words or "," not in words:
        return False
    comma = words.index(",")
    clause, main = words[1:comma], [word for word in words[comma:] if word != ","]
    if len(clause) < 2 or len(main) < 2:
        return False
    if words[0] in _CLEAR:
        return True
    if words[0] not in _AMBIGUOUS:
        return False
    # "as soon as people ...": a pronoun or general subject that more words follow.
    clause = clause[2:] if clause[1:2] == ["as"] else clause
    return len(clause) > 1 and (clause[0] in _SUBJECTS or finite_verb(clause) is not None)


def first_sentence(text: str) -> str:
    """The first sentence of a text, with its final punctuation.

    Punctuation at the beginning of a text does not end a sentence, nor do the full stop of an
    abbreviation and an ellipsis.
    """
    for end in _SENTENCE_END.finditer(text):
        before = text[: end.start()]
        if not re.search(r"\w\W*\w", before) or (end[0] == "." and _NO_END.search(before)):
            continue
        if set(end[0]) == {"."} and len(end[0]) > 1:  # an ellipsis
            continue
        return text[: end.end()]
    return text


def is_finite_verb(word: str) -> bool:
    """Whether a lower-case word is an auxiliary or a common verb."""
    return word in AUXILIARIES or word in _VERBS


def finite_verb(words: Sequence[str]) -> int | None:
    """Index of the first word that looks like the verb of the main clause, or None.

    Args:
        words: Words of a sentence in lower case, without final punctuation.
    """
    open_relatives = 0
    for place, word in enumerate(words):
        if word in RELATIVES and place > 0:
            open_relatives += 1
        elif (
            (is_finite_verb(word) and not _is_noun(words, place))
            or _looks_past(words, place)
            or _looks_present(words, place)
        ):
            # "'s" may be a genitive; it counts as a verb only after a pronoun.
            if word == "'s" and words[place - 1] not in PRONOUNS | RELATIVES:
                continue
            if open_relatives == 0:
                return place
            open_relatives -= 1
    return None


def _is_noun(words: Sequence[str], place: int) -> bool:
    """Whether a possible verb is in the position of a noun or an infinitive."""
    if words[place] in AUXILIARIES or place == 0:
        return False
    before = words[place - 1]
    return before in (DETERMINERS - {"that", "this", "all", "both"}) or before in _PREPOSITIONS


def _looks_present(words: Sequence[str], place: int) -> bool:
    """Whether a word in -s is a verb rather than a plural: an object follows it."""
    word = words[place]
    if place == 0 or not word.endswith("s") or len(word) < 5 or word.endswith(("ss", "'s", "ous")):
        return False
    before = words[place - 1]
    if before in DETERMINERS | _PREPOSITIONS | AUXILIARIES | {",", "and", "or"}:
        return False
    return place + 1 < len(words) and words[place + 1] in DETERMINERS - {"this", "that"}


def _looks_past(words: Sequence[str], place: int) -> bool:
    """Whether a word in -ed is a verb rather than a participle, by the words around it."""
    word = words[place]
    if place == 0 or not word.endswith("ed") or len(word) < 5 or place + 1 >= len(words):
        return False
    before, after = words[place - 1], words[place + 1]
    attribute = before in AUXILIARIES | DETERMINERS | _PREPOSITIONS or before.endswith("ly")
    if attribute or before in {",", "and", "so", "too", "very", "most", "more", "be", "been"}:
        return False
    return after in DETERMINERS | PRONOUNS | {"up", "out", "off", "to", "him", "her", "them", "me"}
