"""What is learned from a corpus before it is converted: a tokenizer, and the words of its domain.

Both are learned from a sample of the documents that are trained on, cleaned, drawn by their ids: so
they do not depend on the inputs' number or order, nor on the number of partitions.
"""

import functools
import heapq
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from etils import epath

from data import rows as rows_lib
from data.clean.config import CleanConfig
from data.cleaning import read_cleaned
from data.clock import Clock
from data.comprehension.language import languages, load_language
from data.comprehension.vocabulary import (
    CountedSample,
    Vocabulary,
    VocabularySample,
    load_vocabulary,
    train_vocabulary,
)
from data.corpus import Corpus
from data.decision import Decision
from data.document import Document, draw
from data.executor import Report
from data.job import Job
from data.runs import Run
from data.tally import Tally
from data.tokenizer import Tokenizer

# A language with less text than this in a corpus gets no keywords: chance would choose them.
MIN_SAMPLE_BYTES = 20_000


def tokenizer_texts(job: Job, corpora: Mapping[str, Corpus], decision: Decision) -> Iterator[str]:
    """A sample of the documents trained on, at most `sample_mb` of it, to train a tokenizer."""
    assert job.config.train_tokenizer is not None
    total = sum(corpus.counts["bytes"] for corpus in corpora.values())
    share = job.config.train_tokenizer.sample_mb * 1e6 / max(total, 1)
    for corpus in corpora.values():
        for document in _sample(job, corpus, decision, share, "tokenizer"):
            yield from (turn.text for turn in document.turns)


def domain_vocabularies(
    job: Job, corpus: Corpus, decision: Decision
) -> tuple[tuple[str, str], ...]:
    """Language and model file of the domain's vocabularies, trained if the recipe says `auto`.

    A model that was trained lies beside the stream, and is not trained again.
    """
    config = job.config.corpora[corpus.name]
    wanted = config.comprehension.domain_vocab
    if config.convert != "comprehension" or wanted is None:
        return ()
    codes = languages() if config.comprehension.language == "auto" else ()
    folder = job.out / corpus.name / "vocabulary"
    if wanted != "auto":
        if job.executor.shared:  # where all machines find it
            folder.mkdir(parents=True, exist_ok=True)
            epath.Path(wanted).copy(folder / "named.model", overwrite=True)
            wanted = str(folder / "named.model")
        return tuple((code, wanted) for code in codes or (config.comprehension.language,))
    max_bytes = config.comprehension.vocab_sample_mb * 1_000_000
    share = max_bytes / max(corpus.counts["bytes"], 1)
    samples = _counted(job, corpus, decision, max_bytes) if share >= 1 else None
    if samples is None:
        samples = {}
        for document in _sample(job, corpus, decision, share, "vocabulary"):
            code = language_of(config.comprehension.language, document)
            if code in languages():
                sample = samples.setdefault(code, VocabularySample(max_bytes))
                sample.add("\n\n".join(turn.text for turn in document.turns))
    found = []
    for code, sample in sorted(samples.items()):
        if sample.num_bytes < MIN_SAMPLE_BYTES:
            print(f"{corpus.name}: too little {code} text for a vocabulary; no keywords in it.")
            continue
        path = train_vocabulary(
            sample,
            load_language(code),
            folder,
            vocab_size=config.comprehension.vocab_size,
            max_bytes=max_bytes,
            log=print,
        )
        found.append((code, str(path)))
    return tuple(found)


def language_of(setting: str, document: Document) -> str:
    """The code of a document's language: the recipe's, or where it says `auto` what cleaning told."""
    return document.meta.get("language", "") if setting == "auto" else setting


@functools.lru_cache(4)
def load_vocabularies(
    paths: tuple[tuple[str, str], ...], tokenizer: Tokenizer
) -> dict[str, Vocabulary]:
    """The vocabularies of a corpus by their language, once in a process."""
    return {code: load_vocabulary(path, tokenizer, load_language(code)) for code, path in paths}


@dataclass(frozen=True)
class SampleTask:
    """One partition to draw documents from, and the file they go to."""

    name: str
    clean: CleanConfig | None
    decision: Decision
    runs: tuple[Run, ...]
    buckets: tuple[int, ...]
    choice: str
    share: float
    out: str


def _sample(
    job: Job, corpus: Corpus, decision: Decision, share: float, choice: str
) -> Iterator[Document]:
    """A share of the documents of a corpus that are trained on, sorted by id."""
    name = f"{corpus.name}-{job.decision_digest()[:16]}-{corpus.num_partitions}"
    folder = job.spool / f"{name}-{choice}-{min(share, 1):.9f}"
    clean = job.config.clean_of(corpus.name)
    tasks = [
        SampleTask(
            corpus.name, clean, decision, *corpus.share(i), choice, share,
            str(folder / f"sample-{i:05d}.zst"),
        )
        for i in range(corpus.num_partitions)
    ]  # fmt: skip
    todo = [task for task in tasks if not epath.Path(task.out).exists()]
    job.executor.run("sampling", draw_sample, todo, None)
    lines = heapq.merge(*(rows_lib.read_lines(task.out) for task in tasks))
    return map(Document.from_json, lines)


def draw_sample(task: SampleTask, report: Report) -> None:
    """Writes the documents of one partition that are drawn."""

    def drawn(documents: Iterable[Document]) -> Iterator[str]:
        for document in documents:
            chance = draw(document.id, f"{task.choice} sample").random() if task.share < 1 else 0
            if chance < task.share:
                yield document.to_json()

    rows_lib.write_lines(task.out, drawn(_trained_on(task)))


def _trained_on(task: "SampleTask | CountTask") -> Iterable[Document]:
    """The documents of one partition that are trained on, cleaned."""

    def cleaned() -> Iterator[Document]:
        for dealt in read_cleaned(task.runs, task.buckets, task.clean, Clock()):
            assert dealt.cleaned is not None
            document = dealt.cleaned.document
            if document is not None and not task.decision.is_held_out(dealt.document):
                yield document

    return task.decision.stage(task.name, Tally(task.name))(cleaned())


@dataclass(frozen=True)
class CountTask:
    """One partition whose words are counted, all of them, and the file they go to."""

    name: str
    clean: CleanConfig | None
    decision: Decision
    runs: tuple[Run, ...]
    buckets: tuple[int, ...]
    language: str
    out: str


def _counted(
    job: Job, corpus: Corpus, decision: Decision, max_bytes: int
) -> dict[str, CountedSample | VocabularySample] | None:
    """The samples of a corpus that is wholly sampled, counted where its partitions are.

    None where that does not do: a language without spaces is not learned from its words, a text may
    be in two partitions, and cleaning may have made texts longer.
    """
    language = job.config.corpora[corpus.name].comprehension.language
    name = f"{corpus.name}-{job.decision_digest()[:16]}-{corpus.num_partitions}"
    folder = job.spool / f"{name}-words-{language}"
    clean = job.config.clean_of(corpus.name)
    tasks = [
        CountTask(
            corpus.name, clean, decision, *corpus.share(i), language,
            str(folder / f"words-{i:05d}.zst"),
        )
        for i in range(corpus.num_partitions)
    ]  # fmt: skip
    todo = [task for task in tasks if not epath.Path(task.out).exists()]
    job.executor.run("sampling", count_words, todo, None)
    samples: dict[str, CountedSample | VocabularySample] = {}
    apart = True
    for task in tasks:
        for line in rows_lib.read_lines(task.out):
            code, sizes, words = json.loads(line)
            sample = samples.setdefault(code, CountedSample())
            assert isinstance(sample, CountedSample)
            apart &= sample.merge(CountedSample(sizes, Counter(words)))
    spaced = all(load_language(code).file.sentences.spaced for code in samples)
    fits = all(sample.num_bytes <= max_bytes for sample in samples.values())
    return samples if apart and spaced and fits else None


def count_words(task: CountTask, report: Report) -> None:
    """Writes a line for every language of one partition: code, texts, words."""
    samples: dict[str, CountedSample] = {}
    for document in _trained_on(task):
        code = language_of(task.language, document)
        if code in languages():
            sample = samples.setdefault(code, CountedSample())
            sample.add("\n\n".join(turn.text for turn in document.turns))
    lines = ([code, samples[code].sizes, samples[code].words] for code in sorted(samples))
    rows_lib.write_lines(task.out, map(json.dumps, lines))
