"""Expressions that find many words of a language in one fast pass over a text.

What stands inside a sentence and may be a task (a connective, the verb of a definition, what comes
before a number) is written in the language's file as it stands in a text. All of it is looked for at
once, in a trie; the rules then look at the few sentences where something was found.
"""

import functools
import re
from collections.abc import Iterable

from data.comprehension.language import Language, StatementRule, load_language

APOSTROPHES = "'’"
INNER_KINDS = ("joints", "phrases", "subjects")
TRIGGER = "trigger"  # group of what may be a question, in the expressions of `inner_finders`


def trie(words: Iterable[str]) -> str:
    """An expression for any of `words`, the longest that fits, that tries each letter once."""
    branches: dict[str, list[str]] = {}
    ends = False
    for word in sorted(set(words)):
        if word:
            branches.setdefault(word[0], []).append(word[1:])
        else:
            ends = True
    parts = [
        (r"[ \n]" if lead == " " else re.escape(lead)) + trie(rest)
        for lead, rest in branches.items()
    ]
    if not parts:
        return ""
    if len(parts) == 1 and not ends:
        return parts[0]
    return f"(?:{'|'.join(parts)})" + ("?" if ends else "")


def finders(words: Iterable[str], *, spaced: bool, others: str = "") -> tuple[re.Pattern[str], ...]:
    """Expressions that together find all of `words` in one fast pass each.

    `others` is an expression of what else is looked for, behind a space where words stand apart.

    Words are grouped by what they begin with, a mark, a space or a letter: the search for one set
    of first characters is quick where the set is small.
    """
    groups: dict[str, list[str]] = {}
    for word in set(words):
        lead = word[0]
        kind = "space" if lead == " " else "letter" if lead.isalnum() else "mark"
        groups.setdefault(kind, []).append(word)
    patterns = []
    for kind, members in sorted(groups.items()):
        boundary = r"(?![\w-])" if spaced else ""
        more = f"{others}|" if others and kind == ("space" if spaced else "letter") else ""
        if kind == "letter":
            patterns.append(f"(?:{more}{trie(members)}{boundary})")
        else:
            leads = "".join(sorted({word[0] for word in members})).replace(" ", " \\n")
            patterns.append(f"[{leads}](?:{more}{trie(word[1:] for word in members)}{boundary})")
    return tuple(re.compile(pattern) for pattern in patterns)


def statement_words(language: Language) -> list[tuple[str, str, str, StatementRule]]:
    """(as it stands in a text, family, verb, rule) of every verb of definitions and topics."""
    file = language.file
    space = " " if file.sentences.spaced else ""
    return [
        (
            f"{'' if verb[0] in APOSTROPHES else space}{verb}{space if start else ''}{start}",
            family,
            verb,
            rule,
        )
        for family, rules in (("definition", file.definitions), ("topic", file.topics))
        for rule in rules
        for verb in rule.verbs
        for start in rule.before or ("",)
    ]


def relation_words(language: Language) -> list[tuple[str, str, str]]:
    """(as it stands inside a sentence, kind, name of its relation) of every connective."""
    file = language.file
    words = [
        (word, kind, name)
        for name, relation in file.relations.items()
        for kind in INNER_KINDS
        for word in getattr(relation, kind)
    ]
    known = {word for word, _, _ in words}
    comma, space = file.clauses.comma, " " if file.sentences.spaced else ""
    inserted = [
        (f"{comma}{space}{word}{comma}", "inserted", name)
        for name, relation in file.relations.items()
        for word in relation.inserted
    ]
    return words + [entry for entry in inserted if entry[0] not in known]


@functools.cache
def inner_finders(code: str) -> tuple[re.Pattern[str], ...]:
    """What finds everything that stands inside a sentence and may be a task: one pass for all."""
    language = load_language(code)
    words = [word for word, *_ in statement_words(language)]
    words += [word for word, *_ in relation_words(language)]
    spaced = language.file.sentences.spaced
    before = [word for rule in language.file.questions for word in rule.triggers]
    others = f"(?P<{TRIGGER}>{trie(before)}{'[ ]' if spaced else ''}(?=[0-9$€£]))" if before else ""
    return finders(words, spaced=spaced, others=others)


def alternatives(words: Iterable[str]) -> str:
    """An expression for any of `words` as they stand, the longest first."""
    return "|".join(re.escape(word) for word in sorted(set(words), key=lambda w: (-len(w), w)))


@functools.cache
def label_of(code: str) -> re.Pattern[str]:
    """An expression of a title that opens a paragraph ("METHODS: ..."), in its group `title`."""
    labels = load_language(code).file.sections.labels
    known = alternatives([*labels, *(label.upper() for label in labels)]) or "(?!)"
    capitals = r"[A-Z][A-Z &/,’'-]{3,60}[A-Z]"
    return re.compile(rf"(?P<title>{known}|{capitals})\s?[:：](?=\s*\S)")
