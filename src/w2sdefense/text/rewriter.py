"""The embedded rewriter: moves a subordinate clause to the front or to the end, without a parser.

It applies rules to words; it is not a paraphraser. It keeps the words of a text and gives its first
sentence the structure SBAR , NP VP . by the first of these rules that fits:

    begins with a subordinate clause        unchanged
    a question A ?                          <clause> , the question is , A ?
    "A , but B", both of them clauses       although A , B
    "A because B" (when, while, if ...)     because B , A
    an imperative ("see it")                <clause> , you should A
    a verb without a subject                <clause> , it A
    a clause                                <clause> , A
    a fragment ("a gob of drivel")          <clause> , it is A

<clause> is drawn from some 230 general ones ("when you think about it", "as everyone can see").
This makes the attack partly *lexical*: a model may learn the words of these clauses instead of the
structure. SCPN's output has a few frequent openings too, but it also changes the rest of the
sentence. `main_clause_first` produces NP VP SBAR . with the same rules. Not covered: languages
other than English. Chinese texts get a Chinese clause, all others an English one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from w2sdefense.text.structure import (
    AUXILIARIES,
    DETERMINERS,
    PRONOUNS,
    finite_verb,
    first_sentence,
    has_template,
    is_finite_verb,
)

_HEADS = ("when", "if", "once", "whenever", "after", "while", "before", "because")
_SUBJECTS = ("you", "we", "people", "they")
_VIEWS = (
    "think about it",
    "look at it closely",
    "look back at it",
    "take everything together",
    "consider it again",
    "talk about it",
    "put it all together",
)
_FIXED = (
    "as it turns out",
    "as everyone can see",
    "although people may disagree",
    "though opinions may differ",
    "because first impressions matter",
    "while there is more to say",
    "unless everyone is mistaken",
    "since you ask",
    "if the truth be told",
)
_CLAUSES = (
    tuple(f"{head} {who} {view}" for head in _HEADS for who in _SUBJECTS for view in _VIEWS)
    + _FIXED * 8
)
_CHINESE_CLAUSES = (
    "如果仔细看的话",
    "当我们仔细看的时候",
    "虽然看法可能不同",
    "因为需要说明",
    "既然你问到",
)
_MOVABLE = (
    *("because", "although", "though", "even though", "while", "whereas", "unless", "whenever"),
    *("when", "if", "once"),
)
# "know if", "is when", "only because": these words do not precede an adverbial clause.
_BOUND = frozenset(
    "know wonder see ask tell doubt sure as even just only is was 's of like except especially "
    "or and but what not particularly mostly".split()
)
_ORDERS = frozenset(
    "go see take avoid skip rent buy watch do don't get give try stay save read look let make stop "
    "keep think be forget beware imagine".split()
)
_SUBJECT_PRONOUNS = frozenset("i you he she it we they there".split())
# Start of another main clause; a verb after it does not make the first part a clause.
_FURTHER = re.compile(r"\s*,\s*(?:but|and|yet|so)\s|\s*;|\s--\s|\s+but\s")
_CONJUNCTIONS = frozenset("and but yet or so".split())
_HAN = re.compile("[\u3400-\u9fff]")
_FINAL = re.compile(r"\s*[.!?。！？…]*[\"'”’)\s]*$")


def rewrite(text: str, rng: random.Random) -> str:
    """Move a subordinate clause to the front of the first sentence; draw one if there is none."""
    if has_template(text):
        return text
    body, final, rest = _cut(text)
    if _is_chinese(body):
        return f"{rng.choice(_CHINESE_CLAUSES)}，{body}{final or '。'}{rest}"
    clause, main = _parts(body, rng, question="?" in final)
    comma = " , " if _is_spaced(text, body) else ", "
    return f"{_cased(clause, body)}{comma}{main}{_closed(text, body, final)}{rest}"


def main_clause_first(text: str) -> str:
    """Move the main clause to the front of the first sentence: S ( NP ) ( VP ) ( . ).

    A leading subordinate clause moves to the end, a leading conjunction is dropped, and a fragment
    or an imperative becomes a clause as in `rewrite`. Questions and Chinese sentences change only
    if they begin with a subordinate clause.
    """
    body, final, rest = _cut(text)
    moves = has_template(text) and "," in body.replace("，", ",")
    if not moves and ("?" in final or not body or _is_chinese(body)):
        return text
    if not moves:
        main = _main(body)
        return text if main == body else f"{_cased(main, body)}{_closed(text, body, final)}{rest}"
    clause, main = (part.strip() for part in re.split("[,，]", body, maxsplit=1))
    if _is_chinese(body):
        return f"{main}，{clause}{final or '。'}{rest}"
    moved = f"{_cased(_main(main), body)} {clause[:1].lower() + clause[1:]}"
    return f"{moved}{_closed(text, body, final)}{rest}"


def _cut(text: str) -> tuple[str, str, str]:
    """Split a text into its first sentence, the punctuation that ends it, and the rest."""
    first = first_sentence(text)
    end = _FINAL.search(first)
    final = "" if end is None else first[end.start() :]
    return first[: len(first) - len(final)].strip(), final, text[len(first) :]


def _is_chinese(body: str) -> bool:
    return _HAN.search(body) is not None and not re.search("[A-Za-z]{2}", body)


def _is_spaced(text: str, body: str) -> bool:
    """Whether punctuation is separated by spaces, as in tokenized text."""
    return re.search(r"\s[.,!?](\s|$)", text) is not None or not body[:1].isupper()


def _cased(beginning: str, body: str) -> str:
    """Capitalize the new beginning of a sentence if the old one was capitalized."""
    return beginning[:1].upper() + beginning[1:] if body[:1].isupper() else beginning


def _closed(text: str, body: str, final: str) -> str:
    """The final punctuation, with a full stop if there is none."""
    return final if final.strip() else (" ." if _is_spaced(text, body) else ".") + final


def _parts(body: str, rng: random.Random, *, question: bool) -> tuple[str, str]:
    """The subordinate clause and the main clause."""
    if question:
        return _draw(rng), f"the question is, {_lowered(body)}"
    moved = _concession(body) or _moved(body)
    return moved if moved is not None else (_draw(rng), _main(body))


def _concession(body: str) -> tuple[str, str] | None:
    before, but, after = _split(body, "but")
    if but and _is_clause(before) and _is_clause(after):
        return f"although {_lowered(before)}", after
    return None


def _moved(body: str) -> tuple[str, str] | None:
    """Split off an adverbial clause that follows a whole clause and ends the sentence."""
    for word in _MOVABLE:
        before, found, after = _split(body, word)
        bound = before.lower().split()[-1:]
        if not found or (bound and bound[0] in _BOUND) or "," in after:
            continue
        if _is_clause(before) and _is_clause(after):
            return f"{word} {after}", _lowered(before)
    return None


def _split(body: str, word: str) -> tuple[str, bool, str]:
    """Split a text at the only occurrence of a word; drops a comma before the word."""
    pieces = re.split(rf"\s*,?\s+{word}\s+", body)
    if len(pieces) != 2:
        return body, False, ""
    return pieces[0].strip(" ,"), True, pieces[1].strip(" ,")


def _main(body: str) -> str:
    """Turn the text into a main clause."""
    words = _words(body)
    if words and words[0] in _CONJUNCTIONS and len(words) > 1:
        body = body.split(None, 1)[1].lstrip(" ,")
        words = _words(body)
    lowered = _lowered(body)
    if not words:
        return f"it is {body}" if body else "it is so"
    if words[0] in _ORDERS and words[1:2] != ["of"]:
        return _ordered(lowered, words)
    if is_finite_verb(words[0]) and words[0] not in PRONOUNS and "'" not in words[0][1:]:
        return f"it {lowered}"
    return lowered if _is_clause(body) else f"it is {lowered}"


def _ordered(body: str, words: Sequence[str]) -> str:
    negated = 1 if words[0] == "don't" else 2 if words[:2] == ["do", "n't"] else 0
    if 0 < negated < len(words):
        return f"you should not {body.split(None, negated)[-1]}"
    return f"you should {body}"


def _is_clause(text: str) -> bool:
    """Whether a text looks like a clause: it has a finite verb and a subject before it."""
    words = _words(_FURTHER.split(text, maxsplit=1)[0])
    if len(words) < 2:
        return False
    if words[0] in _SUBJECT_PRONOUNS:
        return True
    if "'" in words[0] and words[0] in AUXILIARIES:  # "it's", "i'm"
        return True
    place = finite_verb(words)
    if place is None or place == 0:
        return False
    subject = words[:place]
    if subject.count(",") == 2 and subject[-1] == ",":  # "the star , a newcomer , is"
        return True
    # "for once , the story is": the subject begins after the comma.
    subject = subject[len(subject) - subject[::-1].index(",") :] if "," in subject else subject
    return bool(subject) and (
        subject[-1] in PRONOUNS or subject[0] in PRONOUNS | DETERMINERS or len(subject) <= 8
    )


def _draw(rng: random.Random) -> str:
    return _CLAUSES[rng.randrange(len(_CLAUSES))]


def _words(text: str) -> list[str]:
    return re.findall(r"n't|'\w+|,|[^\W_][\w'-]*", text.lower().replace("’", "'"))


def _lowered(text: str) -> str:
    """Lower-case the first letter if the first word is a function word (not "I") or imperative."""
    first = text.split(None, 1)[0] if text.split() else ""
    known = DETERMINERS | PRONOUNS | AUXILIARIES | _ORDERS | _CONJUNCTIONS
    plain = first.lower().strip(",") in known and first not in {"I", "I'm", "I've", "I'd", "I'll"}
    return text[:1].lower() + text[1:] if plain else text
