"""Which of a text's pairs are let through, and why not the others.

Published are: no equal questions, a chain of thought that splits in two, a multiple-choice answer
that is an option or says that the text has no answer (the parser does the rest). Ours are: near-equal
questions, answers that the text does not bear out, other languages, lengths, loops.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from data.synthesis import grounding
from data.synthesis.config import FiltersConfig
from data.synthesis.format import Pair, Rejected, Task, read_task

PHRASES = Path(__file__).with_name("phrases.yaml")
LOOP_WORDS = 20
# Below this a language that was told is not believed.
SURE = 0.95
_EXCERPT = 160


@dataclass(frozen=True)
class Phrases:
    """Answers judged in a way of their own, in the form that `_plain` gives."""

    unanswerable: frozenset[str]
    closed: frozenset[str]


@functools.cache
def load_phrases(path: Path = PHRASES) -> Phrases:
    """Reads phrases.yaml.

    Raises:
        ValueError: a phrase is there twice, or is not a text (`yes` without quotes is a truth value).
    """
    record = yaml.safe_load(path.read_text(encoding="utf-8"))
    lists = {}
    for name in ("unanswerable", "closed"):
        for phrase in record[name]:
            if not isinstance(phrase, str):
                raise ValueError(f"{path}: {name}: {phrase!r} is no text; put it into quotes")
        plain = [_plain(phrase) for phrase in record[name]]
        if twice := {phrase for phrase in plain if plain.count(phrase) > 1}:
            raise ValueError(f"{path}: {name}: {sorted(twice)} stand there twice; keep one")
        lists[name] = frozenset(plain)
    return Phrases(**lists)


@dataclass
class TextFilter:
    """Judges the pairs of one text, in their order: later ones against those let through.

    Attributes:
        text: what the pairs are about.
        config: the thresholds.
        language: the text's language, where it is known already.
    """

    text: str
    config: FiltersConfig
    language: str | None = None
    _questions: list[tuple[list[str], frozenset[str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._grams = grounding.grams(self.text)
        self._scripts = grounding.scripts(self.text)
        wanted = self.config.language
        if wanted == "auto" and self.language is None:
            found, sure = grounding.language(self.text)
            self.language = found if sure >= SURE else None
        elif wanted not in ("auto", "off"):
            self.language = wanted

    def judge(self, pair: Pair) -> Task | Rejected:
        """The task that a pair is, or the reason why it is not let through.

        Reasons, beside those of `read_task`: `question too short`, `question too long`, `answer too
        short`, `answer too long`, `answer repeats the question`, `answer runs in a loop`, `answer is
        no option`, `wrong language`, `not grounded`, `duplicate question`.
        """
        task = read_task(pair)
        if isinstance(task, Rejected):
            return task
        if task.options:
            task = _with_its_option(task, load_phrases())
        reason = (
            self._length(pair)
            or self._answer(task)
            or self._language(task)
            or self._grounds(task)
            or self._duplicate(task)  # last: only what is let through is remembered
        )
        if reason:
            return Rejected(reason, f"{pair.question} -> {pair.answer}"[:_EXCERPT])
        return task

    def _length(self, pair: Pair) -> str | None:
        for name, text in (("question", pair.question), ("answer", pair.answer)):
            if len(text) < getattr(self.config, f"min_{name}_chars"):
                return f"{name} too short"
            if len(text) > getattr(self.config, f"max_{name}_chars"):
                return f"{name} too long"
        return None

    def _answer(self, task: Task) -> str | None:
        if task.options and task.answer not in task.options:
            return "answer is no option"
        if _plain(task.answer) == _plain(task.question):
            return "answer repeats the question"
        found = grounding.words(f"{task.rationale} {task.answer}")
        if len(found) >= LOOP_WORDS and grounding.distinct(found) < self.config.min_distinct_words:
            return "answer runs in a loop"
        return None

    def _language(self, task: Task) -> str | None:
        if self.config.language == "off":
            return None
        reply = f"{task.rationale} {task.answer}".strip()
        for part in (task.question, reply):
            script = grounding.script(part)
            letters = sum(map(str.isalpha, part))  # a single one may be a symbol
            if letters > 1 and self._scripts and script not in self._scripts:
                return "wrong language"
        said = f"{task.question} {reply}"
        if self.language and len(said) >= self.config.language_min_chars:
            found, sure = grounding.language(said)
            if found != self.language and sure >= SURE:
                return "wrong language"
        return None

    def _grounds(self, task: Task) -> str | None:
        question = grounding.grams(task.question)
        if task.rationale:
            part, least = grounding.grams(task.rationale), self.config.min_rationale_overlap
        elif task.options or _plain(task.answer) in load_phrases().closed:
            part = question | (grounding.grams(task.answer) if task.options else set())
            least = self.config.min_question_overlap
        else:
            answer = grounding.grams(task.answer)
            part, least = answer - question or answer, self.config.min_answer_overlap
        return "not grounded" if grounding.share(part, self._grams) < least else None

    def _duplicate(self, task: Task) -> str | None:
        """Remembers the question where it is a new one."""
        found = grounding.words(" ".join((task.question, *task.options)))
        digits = [word for word in found if any(map(str.isdigit, word))]
        bag = frozenset(found)
        for other, seen in self._questions:
            same = found == other
            # Questions that differ in a number alone ask for different things.
            if not same and digits == [w for w in other if any(map(str.isdigit, w))] and bag | seen:
                near = len(bag & seen) / len(bag | seen)
                same = self.config.duplicate_overlap < 1 and near >= self.config.duplicate_overlap
            if same:
                return "duplicate question"
        self._questions.append((found, bag))
        return None


def judge_pairs(
    pairs: Sequence[Pair], text: str, config: FiltersConfig, language: str | None = None
) -> tuple[list[Task], list[Rejected]]:
    """The tasks among the pairs of one text, and the reasons for the others, both in order."""
    filter_ = TextFilter(text, config, language)
    judged = [filter_.judge(pair) for pair in pairs]
    return (
        [task for task in judged if isinstance(task, Task)],
        [item for item in judged if isinstance(item, Rejected)],
    )


def _with_its_option(task: Task, phrases: Phrases) -> Task:
    """The task with its answer spelled as the option it is; unchanged where it is none."""
    for option in task.options:
        if _plain(option) == _plain(task.answer):
            return replace(task, answer=option)
    if _plain(task.answer) in phrases.unanswerable:
        return replace(task, options=(*task.options, task.answer))
    return task


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".!。 ")
