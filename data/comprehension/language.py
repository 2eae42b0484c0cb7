"""The languages that mining knows: one file of `connectives/` each, and no code.

`LanguageFile` says what such a file holds; `Language` is the same, compiled. All expressions are
matched against one sentence at a time, and sentences over `clauses.max_chars` are not matched, so
no text can make mining slower than linear. `%name%` in an expression stands for `shapes.name`.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from data.strict import Config

FOLDER = Path(__file__).parent / "connectives"


class SentenceRules(Config):
    """Where sentences end, where the library that splits them needs help."""

    library: str = Field(description="code of the language in sentencex")
    terminators: str = Field(description="characters that end a sentence")
    statements: str = Field(description="those among them that end a statement")
    stop: str = Field(description="what is put behind a clause that was cut out of a sentence")
    spaced: bool = Field(True, description="whether words stand apart and lines join with a space")
    wrap_chars: int = Field(40, description="a line at least so long may go on in the next one")
    articles: tuple[str, ...] = Field((), description="words never written large inside a sentence")
    abbreviations: tuple[str, ...] = Field((), description="no sentence ends behind these")
    start: str = Field(description="expression: how a sentence begins where the library was unsure")
    item: str = Field(description="expression: how an item of a list begins, at a line's start")


class ClauseRules(Config):
    """What is a whole clause, what is a whole phrase."""

    min_chars: int = Field(20, description="a shorter clause is none")
    min_phrase_chars: int = Field(4, description="a shorter phrase is none")
    max_chars: int = Field(600, description="longer sentences are not matched at all")
    auxiliaries: tuple[str, ...] = Field((), description="finite verbs as they stand")
    verbs: tuple[str, ...] = Field((), description="verbs whose forms are made by `endings`")
    endings: tuple[tuple[str, str], ...] = Field(
        (), description="(end of a verb, what stands for it in a finite form)"
    )
    relatives: tuple[str, ...] = Field(
        (), description="words that bring a verb which is not theirs"
    )
    not_first: tuple[str, ...] = Field((), description="words that no clause begins with")
    not_last: tuple[str, ...] = Field((), description="words that no clause or phrase ends with")
    not_in_phrase: str | None = Field(None, description="expression: what shows it is no phrase")
    forbidden: str | None = Field(None, description="expression: what makes a clause unfit")
    not_start: str | None = Field(None, description="expression: no clause or phrase begins so")
    hedges: str | None = Field(None, description="expression: adverbs cut off before a connective")
    ends: str | None = Field(None, description="expression: where a clause ends inside a sentence")
    phrase_ends: str | None = Field(
        None, description="expression: where a phrase ends; else `ends`"
    )
    comma: str = Field(",", description="what a head clause ends with")
    seconds: tuple[str, ...] = Field((), description="what the clause behind a head may open with")
    missing: str | None = Field(
        None,
        description="expression: what points back to a sentence before, so that it is missing from "
        "the first sentence of a text",
    )


class RelationRules(Config):
    """Connectives that signal one relation between two clauses.

    `openings` stand at the start of a sentence and relate it to the one before; `inserted` stand
    inside it, between commas, and do the same; `joints` stand between two clauses of a sentence;
    `phrases` between a clause and a phrase; `subjects` between two phrases; `heads` open a sentence
    of two clauses ("Although A, B"), `phrase_heads` one of a phrase and a clause. `answers` open
    a sentence whose rest is a clause about the one before; `phrase_answers`: whose rest is a phrase.
    """

    tasks: Mapping[str, str] = Field(description="family: label")
    question: str | None = Field(
        None,
        description="what two phrases (`subjects`) answer, with {effect} or {cause}; they make this question "
        "and no pair, for neither is a clause",
    )
    not_asked: str | None = Field(None, description="expression: found in no phrase of a question")
    openings: tuple[str, ...] = ()
    inserted: tuple[str, ...] = ()
    joints: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    phrase_heads: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    phrase_answers: tuple[str, ...] = ()
    not_before: str | None = Field(None, description="expression: the left side may not end so")
    not_left: str | None = Field(None, description="expression: found in no left side")
    not_after: str | None = Field(None, description="expression: the right side may not begin so")
    not_right: str | None = Field(None, description="expression: found in no right side")


class StatementRule(Config):
    """A statement `left verb right` that a definition, topic or question is made of."""

    verbs: tuple[str, ...] = Field(description="what stands between the two, as it is written")
    before: tuple[str, ...] = Field((), description="what the right side begins with; anything")
    left: str = Field(description="expression: the whole of the left side, with its group `term`")
    right: str = Field(description="expression: the whole of the right side, with its group `rest`")
    question: str | None = Field(
        None, description="what the statement answers, with {term}, {verb}"
    )
    not_left: str | None = Field(None, description="expression: found in no term")
    not_right: str | None = Field(None, description="expression: found in no right side")


class QuestionRule(Config):
    """A statement that a question and its answer are made of."""

    label: Literal["definition", "number"] = "number"
    starts: str | None = Field(None, description="expression: how every such sentence begins")
    triggers: tuple[str, ...] = Field(
        (), description="what stands before a digit in every such sentence, behind a space"
    )
    pattern: str = Field(description="expression: the whole sentence; its groups fill the others")
    question: str = Field(description="the question, with {group}s")
    answer: str = Field("{answer}", description="the answer, with {group}s")
    forbidden: str | None = Field(None, description="expression: found in no such sentence")


class KeywordRules(Config):
    """Which pieces of a domain vocabulary are terms of the domain."""

    piece: str = Field(description="expression: the whole of such a piece, boundary mark undone")
    min_chars: int = Field(description="characters that it has at least")
    min_keywords: int = Field(3, description="keywords that a sentence has at least")
    max_keywords: int = Field(3, description="keywords that are given")
    min_rank: int = Field(
        0, description="pieces that the general tokenizer cuts the given keywords into, at least"
    )
    join: str = Field(", ", description="what stands between them")
    sentence_chars: tuple[int, int] = Field((40, 400), description="shortest and longest sentence")
    endings: tuple[tuple[str, str], ...] = Field(
        (),
        description="(end of a word, what stands for it in its base form): a word whose base "
        "form is general is general",
    )
    starts: tuple[str, ...] = Field((), description="prefixes that do not make a term of a word")
    forbidden: str | None = Field(None, description="expression: shapes that are no terms")
    not_sentence: tuple[str, ...] = Field((), description="found in no sentence of theirs")
    glued: str | None = Field(
        None, description="expression: a sentence with the rest of a table or a heading in it"
    )
    general: tuple[str, ...] = Field((), description="words that are in no domain's vocabulary")
    terms: tuple[str, ...] = Field(
        (),
        description="terms of some domain that general vocabularies have too; a domain's own "
        "vocabulary has to have them",
    )


class SectionRules(Config):
    """What a title inside a text looks like."""

    titles: tuple[str, ...] = Field(description="expressions of a line that is a title: `title`")
    labels: tuple[str, ...] = Field((), description="titles that open a paragraph, before a colon")
    max_chars: int = Field(100, description="a longer line is no title")
    not_title: str | None = Field(None, description="expression: found in no title")
    min_body_chars: int = Field(100, description="a section task needs so much text")


class LanguageFile(Config):
    """A file of `connectives/`."""

    name: str
    shapes: Mapping[str, str] = {}
    sentences: SentenceRules
    clauses: ClauseRules
    relations: Mapping[str, RelationRules]
    definitions: tuple[StatementRule, ...]
    topics: tuple[StatementRule, ...]
    questions: tuple[QuestionRule, ...]
    keywords: KeywordRules
    sections: SectionRules


@dataclass(frozen=True)
class Language:
    """A language ready for mining; made by `load_language`. Pickled by its code."""

    code: str
    file: LanguageFile

    def __reduce__(self) -> tuple[Any, ...]:
        return load_language, (self.code,)

    @functools.cached_property
    def finite(self) -> frozenset[str]:
        """Finite verb forms, lower case; empty where the language tells clauses otherwise."""
        rules = self.file.clauses
        forms = {
            verb.removesuffix(end) + form
            for verb in rules.verbs
            for end, form in rules.endings
            if verb.endswith(end)
        }
        return frozenset(forms | set(rules.auxiliaries))

    def shape(self, pattern: str) -> str:
        """`pattern` with its `%name%` written out."""
        for _ in range(4):  # shapes may be made of shapes
            pattern = re.sub(r"%(\w+)%", lambda m: self._shape(m[1]), pattern)
        return pattern

    def _shape(self, name: str) -> str:
        if name not in self.file.shapes:
            raise ValueError(f"connectives/{self.code}.yaml: shapes: there is no {name!r}")
        return f"(?:{self.file.shapes[name]})"

    def compile(self, pattern: str | None, flags: int = 0) -> re.Pattern[str] | None:
        """An expression of the file; None for one that is not given."""
        if pattern is None:
            return None
        try:
            return _compile(self.shape(pattern), flags)
        except re.error as error:
            raise ValueError(
                f"connectives/{self.code}.yaml: {pattern!r} is no expression ({error})"
            ) from error


def _compile(pattern: str, flags: int) -> re.Pattern[str]:
    return re.compile(pattern, flags)


@functools.cache
def languages() -> tuple[str, ...]:
    """Codes of the languages that have a file."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


@functools.cache
def load_language(code: str) -> Language:
    """The language of `connectives/<code>.yaml`.

    Raises:
        ValueError: there is no such file, or it says something that `LanguageFile` does not know.
    """
    if code not in languages():
        raise ValueError(
            f"language: {code!r} has no file in data/comprehension/connectives "
            f"(there are {', '.join(languages())})"
        )
    text = (FOLDER / f"{code}.yaml").read_text(encoding="utf-8")
    # Every scalar is text until the schema says otherwise: "on" and "no" are words here.
    record = yaml.load(text, Loader=yaml.BaseLoader)
    try:
        return Language(code, LanguageFile.model_validate(record))
    except ValidationError as error:
        raise ValueError(f"connectives/{code}.yaml: {error}") from error
