"""Mined pairs for a synthesizer: what `data.comprehension` finds in a text, as questions and answers."""

from collections.abc import Iterable, Iterator, Sequence

from data.comprehension.compose import ask
from data.comprehension.config import ComprehensionConfig
from data.comprehension.language import load_language
from data.comprehension.mine import mine
from data.comprehension.select import select
from data.comprehension.templates import load_templates
from data.synthesis.format import Pair

CONFIG = ComprehensionConfig.model_validate({"max_per_label": 1})


def mined_pairs(
    texts: Iterable[tuple[str, str]], *, language: str, answer_words: int
) -> Iterator[tuple[str, tuple[Pair, ...]]]:
    """The pairs of each text, in its language's templates; none where there is nothing to ask.

    Args:
        texts: a name for the draws, and the text.
        language: code of the connectives and templates (`en`).
        answer_words: longer answers are left out.
    """
    connectives, templates = load_language(language), load_templates(language)
    for name, text in texts:
        chosen, _ = select(mine(text, connectives, None), name, CONFIG, text, ())
        tasks = ask(chosen, name, text, templates, CONFIG)
        pairs = (Pair(task.question.strip(), task.answer.strip()) for task in tasks)
        yield text, _short(pairs, answer_words)


def _short(pairs: Iterable[Pair], words: int) -> tuple[Pair, ...]:
    kept: dict[str, Pair] = {}
    for pair in pairs:
        if pair.question and 0 < len(pair.answer.split()) <= words:
            kept.setdefault(pair.question, pair)
    return tuple(kept.values())


def windows(paragraphs: Sequence[str], words: int) -> Iterator[str]:
    """Neighbouring paragraphs, as many as have so many words together; longer ones are left out."""
    held: list[str] = []
    for paragraph in paragraphs:
        if held and sum(len(part.split()) for part in [*held, paragraph]) > words:
            yield "\n".join(held)
            held = []
        if len(paragraph.split()) <= words:
            held.append(paragraph)
    if held:
        yield "\n".join(held)
