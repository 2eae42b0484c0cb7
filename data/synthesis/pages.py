"""Question-answer pages to texts with pairs: what a synthesizer of one's own is tuned on.

    python -m data.synthesis.pages RECIPE

* **Pages**: rows of one `fields.group` are a page, each a question and its answer. The beginnings
  of neighbouring answers, under the page's title, are a text; a question of it is answered by the
  first sentences of its answer, word for word. So every answer is in the text that is shown, and a
  small model can learn to find it.
* **Abstracts** with a question, a conclusion and a decision: the question is answered freely, by
  one of its options, and by a conclusion that leads to one of them.
* **Recombined** pages (`recombined.py`), **quotations** of the pages' texts and **lists** of their
  words (`exercises.py`): exercises for a model that begins with random weights.

One file each in `out_dir`, in the field names of the published tuning collection: `context`,
`QA_list`, `QA_type`, `rc_name`, and `group`, by which a page is held out whole; lists have `prompt`
and `response`.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from data.config import CorpusConfig
from data.document import Document, draw
from data.rows import whole_file
from data.strict import Config
from data.synthesis.exercises import ListsConfig, QuotationsConfig, quotations, word_lists
from data.synthesis.format import Pair, Task, write_task
from data.synthesis.mined import mined_pairs, windows
from data.synthesis.passage import Passage
from data.synthesis.recombined import RecombinedConfig, recombined

_BROKEN_LINE = re.compile(r"[ \t\xa0]*\n\s*")
# Pages that lost their line breaks keep two spaces where a paragraph ended.
_LOST_BREAK = re.compile(r"(?<=[.!?:]) {2,}(?=[A-Z])")
# Paragraphs that end otherwise lead to a list ("may include:") that is not shown with them.
_WHOLE = (".", "!", ".)", '."')
_LEAD_CHARS = 60


class PassagesConfig(Config):
    """How much of a page a text shows. Counted in words: the tokenizer is often made of the result."""

    words: int = Field(default=110, ge=20, description="of a text at most, its title aside")
    paragraph_words: int = Field(
        default=45, ge=8, description="longer paragraphs end after the sentence before"
    )
    min_paragraph_words: int = Field(default=8, ge=1, description="shorter ones are headings")
    answer_words: int = Field(default=28, ge=5, description="of an answer at most")
    answer_sentences: int = Field(default=3, ge=1)
    min_pairs: int = Field(default=2, ge=1, description="a text with fewer is left out")
    min_mined_pairs: int = Field(default=2, ge=1, description="the same of a text that is mined")
    max_pairs: int = Field(default=3, ge=1)
    shared_by: int = Field(
        default=5,
        ge=1,
        description="answers that begin alike on more pages than this are boilerplate, left out",
    )


class PagesConfig(Config):
    """Texts with pairs, made of question-answer pages and of abstracts."""

    out_dir: str
    pages: CorpusConfig = Field(
        description="fields: {system: TITLE, prompt: QUESTION, response: ANSWER, group: PAGE}"
    )
    abstracts: CorpusConfig | None = Field(
        default=None,
        description="fields: {system: TEXT, prompt: QUESTION, response: [CONCLUSION, DECISION], "
        "dataset: SPLIT, group: ARTICLE}",
    )
    split: str = Field(
        default="train", description="of the abstracts; a benchmark's other rows are left out"
    )
    options: tuple[str, ...] = Field(
        default=("yes", "no", "maybe"), description="what an abstract's decision is one of"
    )
    passages: PassagesConfig = PassagesConfig()
    mined: str | None = Field(
        default=None, description="language of the pages, to mine them too (en); null: no mining"
    )
    recombined: RecombinedConfig | None = Field(default=None, description="null: none")
    quotations: QuotationsConfig | None = Field(default=None, description="null: none")
    lists: ListsConfig | None = Field(default=None, description="null: none")


@dataclass(frozen=True)
class _Answer:
    """What a passage shows of one answer, and its words that answer the question."""

    pair: Pair
    shown: str
    lead: str

    @property
    def num_words(self) -> int:
        return len(self.shown.split())


def page_passages(
    documents: Iterable[Document], limits: PassagesConfig, dataset: str
) -> Iterator[Passage]:
    """The passages of all pages, page by page in the order in which they first come.

    Args:
        documents: exchanges (user, assistant) under a system turn with the page's title, the page
            being `meta.group`.
        limits: how much of a page a passage shows.
        dataset: the `rc_name` of the passages.
    """
    pages: dict[str, list[Document]] = {}
    for document in documents:
        pages.setdefault(document.meta["group"], []).append(document)
    answers = {group: list(_answers(page, limits)) for group, page in pages.items()}
    shared = Counter(
        lead for page in answers.values() for lead in sorted({answer.lead for answer in page})
    )
    for group, page in answers.items():
        own = [answer for answer in page if shared[answer.lead] <= limits.shared_by]
        title = _title(pages[group][0])
        for part in _parts(own, limits):
            if len(part) >= limits.min_pairs:
                text = "\n".join([*([title] if title else []), *(a.shown for a in part)])
                pairs = tuple(answer.pair for answer in part)
                yield Passage(text, pairs, "free-form", dataset, group)


def mined_passages(
    documents: Iterable[Document], limits: PassagesConfig, language: str, dataset: str
) -> Iterator[Passage]:
    """Passages of whole paragraphs of the pages' answers, with the pairs that are mined in them.

    Args:
        documents: as for `page_passages`.
        limits: words of a passage and of an answer, numbers of pairs.
        language: whose connectives and templates are used.
        dataset: the `rc_name` of the passages.
    """
    groups = texts_of(documents, limits)
    named = ((text, text) for text in groups)
    for text, pairs in mined_pairs(named, language=language, answer_words=limits.answer_words):
        if len(pairs) >= limits.min_mined_pairs:
            kept = pairs[: limits.max_pairs]
            yield Passage(text, kept, "free-form", dataset, groups[text])


def texts_of(documents: Iterable[Document], limits: PassagesConfig) -> dict[str, str]:
    """Neighbouring whole paragraphs of the pages' answers, each once, and the page of each."""
    groups: dict[str, str] = {}
    for document in documents:
        parts = [p for p in paragraphs(document.turns[-1].text) if not p.startswith("-")]
        for text in windows(parts, limits.words):
            groups.setdefault(text, document.meta["group"])
    return groups


def abstract_passages(
    documents: Iterable[Document],
    options: Sequence[str],
    limits: PassagesConfig,
    dataset: str,
) -> Iterator[Passage]:
    """A passage per abstract, with two of: its question answered freely, by an option, by reasons.

    Args:
        documents: text (system), question (user), conclusion and, as its last paragraph, decision
            (assistant).
        options: what a decision is one of.
        limits: how much of a text is shown: its last sentences, where the findings are.
        dataset: the `rc_name` of the passages.

    Raises:
        ValueError: a decision is none of the options.
    """
    for document in documents:
        text, question, response = (turn.text for turn in document.turns)
        conclusion, _, decision = response.rpartition("\n\n")
        if decision not in options:
            raise ValueError(
                f"options: {document.source} decides {decision!r}, none of {list(options)}"
            )
        answer = _first(_sentences(conclusion), limits)
        if answer is None:
            continue
        task = {"question": question, "answer": decision, "options": tuple(options)}
        pairs = (
            Pair(question, answer),
            write_task(Task("options", **task)),
            write_task(Task("reasoned options", rationale=answer, **task)),
        )
        shown = _last(_sentences(" ".join(paragraphs(text))), limits.words)
        chosen = sorted(draw(document.id, "ways to ask").sample(range(len(pairs)), 2))
        kept = tuple(pairs[i] for i in chosen)
        yield Passage(shown, kept, "mixed", dataset, document.meta["group"])


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a page's text, each on one line, by its line breaks, kept or lost."""
    text = _LOST_BREAK.sub("\n", _BROKEN_LINE.sub("\n", text))
    return [line for part in text.split("\n") if (line := " ".join(part.split()))]


def _answers(page: Sequence[Document], limits: PassagesConfig) -> Iterator[_Answer]:
    """The beginning of every answer of a page that begins with a paragraph; a question once."""
    asked = set()
    for document in page:
        question = re.sub(r"\s*\?[\s?]*$", "?", document.turns[-2].text.strip())
        body = [
            part
            for part in paragraphs(document.turns[-1].text)
            if len(part.split()) >= limits.min_paragraph_words
            and not part.startswith("-")
            and part.endswith(_WHOLE)
        ]
        if question in asked or not body:
            continue
        sentences = _sentences(body[0])
        if sentences[0].endswith("?"):  # the question once more, as a heading
            sentences = sentences[1:]
        answer = _first(sentences, limits)
        if answer is None:
            continue
        asked.add(question)
        shown: list[str] = []
        for sentence in sentences:
            words = sum(len(part.split()) for part in [*shown, sentence])
            if words > limits.paragraph_words and len(" ".join(shown)) >= len(answer):
                break
            shown.append(sentence)
        title = _title(document)
        lead = re.sub(re.escape(title), "", sentences[0], flags=re.IGNORECASE)[:_LEAD_CHARS]
        yield _Answer(Pair(question, answer), " ".join(shown), lead if title else sentences[0])


def _parts(answers: Sequence[_Answer], limits: PassagesConfig) -> Iterator[list[_Answer]]:
    """Neighbouring answers, as many as a passage holds."""
    part: list[_Answer] = []
    for answer in answers:
        words = sum(other.num_words for other in part) + answer.num_words
        if part and (words > limits.words or len(part) == limits.max_pairs):
            yield part
            part = []
        part.append(answer)
    if part:
        yield part


def _first(sentences: Sequence[str], limits: PassagesConfig) -> str | None:
    """As many of the first sentences as an answer may have; None where the first is too long."""
    answer: list[str] = []
    for sentence in sentences[: limits.answer_sentences]:
        if sum(len(part.split()) for part in [*answer, sentence]) > limits.answer_words:
            break
        answer.append(sentence)
    return " ".join(answer) or None


def _last(sentences: Sequence[str], words: int) -> str:
    """The last sentences that have together at most so many words; one at least."""
    kept = len(sentences) - 1
    while kept and sum(len(sentence.split()) for sentence in sentences[kept - 1 :]) <= words:
        kept -= 1
    return " ".join(sentences[kept:])


def _title(document: Document) -> str:
    first = document.turns[0]
    return " ".join(first.text.split()) if first.role == "system" else ""


def _sentences(text: str) -> list[str]:
    import sentencex

    segments = sentencex.segment("en", text)  # pyright: ignore[reportAttributeAccessIssue]
    return [part for sentence in segments if (part := sentence.strip())]


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    import sys

    from etils import epath

    from configs.load import command, recipe_yaml, user_errors
    from data.sources import SetAside, read

    config, options = command(PagesConfig, sys.argv[1:] if argv is None else argv, __doc__ or "")
    if options.dry_run:
        print(recipe_yaml(config))
        return

    def refuse(item: SetAside) -> None:
        print(f"left out: {item.place}: {item.reason}")

    with user_errors():
        rows = list(read(config.pages, "pages", set_aside=refuse))
        pages = list(page_passages(rows, config.passages, "pages"))
        made: dict[str, Iterable[Passage]] = {"pages": pages}
        if config.abstracts is not None:
            documents = read(config.abstracts, "abstracts", set_aside=refuse)
            chosen = (d for d in documents if d.meta.get("dataset") == config.split)
            made["abstracts"] = abstract_passages(
                chosen, config.options, config.passages, "abstracts"
            )
        if config.mined is not None:
            made["mined"] = mined_passages(rows, config.passages, config.mined, "mined")
        if config.recombined is not None:
            made["recombined"] = recombined(pages, config.recombined, "recombined")
        if config.quotations is not None:
            groups = texts_of(rows, config.passages)
            made["quotations"] = (
                Passage(text, pairs, "free-form", "quotations", groups[text])
                for text, pairs in quotations(groups, config.quotations)
            )
        for name, passages in made.items():
            texts = [passage.to_row() for passage in passages]
            num_pairs = sum(len(row["QA_list"]) for row in texts)
            _write(epath.Path(config.out_dir) / f"{name}.jsonl", texts, f"{num_pairs:,} pairs")
        if config.lists is not None:
            lists = list(word_lists((passage.text for passage in pages), config.lists))
            _write(epath.Path(config.out_dir) / "lists.jsonl", lists, "exercises")


def _write(path: Any, rows: Sequence[Mapping[str, Any]], what: str) -> None:
    with whole_file(path) as local, open(local, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    print(f"{path}: {len(rows):,} texts, {what}")


if __name__ == "__main__":
    main()
