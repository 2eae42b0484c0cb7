"""The comparison: which runs there are, who trains them, what is kept of each.

Runs that are compared with each other see equal tokens. Those of one number of wordings are one
comparison: where any of its runs has memorised too little at a budget, all of them train on to the
next one. Every run keeps its measures in `runs/<name>/result.json`, so a comparison that was
stopped goes on where it was.
"""

import functools
import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.tokenizer import Tokenizer, load_tokenizer, train_sentencepiece
from evaluation.testbed.articles import write_articles
from evaluation.testbed.config import TestbedConfig, Variant, Wordings
from evaluation.testbed.domain import NAME
from evaluation.testbed.measure import summary
from evaluation.testbed.questions import make_items, question_documents
from evaluation.testbed.streams import (
    MADE,
    Convert,
    Packed,
    World,
    comprehension,
    make_stream,
    make_world,
    shares,
)

# What the figures of a run depend on besides the cell itself.
_APART = {"out_dir", "variants", "wordings", "main_wordings", "seeds", "draws", "workers", "engine"}
_TOKENIZER_WORDINGS = 4  # of every article, that the tokenizer is trained on
_COMPOSED_TOKENS = 512  # room for all tasks of an article, for the tokenizer's sake


@dataclass(frozen=True)
class Cell:
    """One run: what it makes of the articles, in how many wordings they come, and its seed."""

    variant: Variant
    wordings: Wordings
    seed: int

    @property
    def name(self) -> str:
        """Names its folder."""
        return f"{self.variant}-{self.wordings}-{self.seed}"


@dataclass(frozen=True)
class Comparison:
    """The runs that see equal tokens, and the budget at which all of them were measured."""

    wordings: Wordings
    cells: tuple[Cell, ...]
    budget: int


def cells_of(config: TestbedConfig) -> list[Cell]:
    """All runs: every variant and number of wordings at the first seed, the main one at all seeds.

    In the order in which they run: what teaches the most goes first, for its figures are waited for.
    """
    return [
        Cell(variant, wordings, seed)
        for wordings in sorted(config.wordings, key=lambda w: w != config.main_wordings)
        for seed in (config.seeds if wordings == config.main_wordings else config.seeds[:1])
        for variant in sorted(config.variants, key=lambda v: not MADE[v])
    ]


def compare(config: TestbedConfig) -> list[Comparison]:
    """Trains and measures what is not there yet; returns what was compared at which budget.

    Raises:
        ValueError: `out_dir` holds runs of other settings.
    """
    out = Path(config.out_dir)
    _keep_settings(config, out)
    make_tokenizer(config, make_world(config), out)
    cells, budgets = cells_of(config), config.run.budgets
    groups: dict[Wordings, list[Cell]] = {
        w: [cell for cell in cells if cell.wordings == w] for w in config.wordings
    }
    reached: dict[Wordings, int] = dict.fromkeys(groups, budgets[0])
    with _workers(config) as pool:
        for number, budget in enumerate(budgets):
            going: list[Wordings] = [w for w, at in reached.items() if at == budget]
            wanted = [cell for cell in cells if cell.wordings in going]
            _run_all(pool, config, wanted, budget)
            if number + 1 == len(budgets):
                break
            for wordings in going:
                least = min(summary_at(out, cell, budget)["memorised"] for cell in groups[wordings])
                if least < config.run.memorised:
                    print(
                        f"{wordings} wordings: a run has memorised {least:.0%} at {budget:,} tokens, "
                        f"all of them train on to {budgets[number + 1]:,}",
                        flush=True,
                    )
                    reached[wordings] = budgets[number + 1]
    return [Comparison(w, tuple(group), reached[w]) for w, group in groups.items()]


def read_result(out: Path, cell: Cell) -> dict[str, Any] | None:
    """What is kept of a run: `cell`, and `measures` by budget; None where it has none yet."""
    path = out / "runs" / cell.name / "result.json"
    return json.loads(path.read_text()) if path.exists() else None


def measure_at(out: Path, cell: Cell, budget: int) -> dict[str, Any] | None:
    """The measure of a run at a budget, if it was taken."""
    result = read_result(out, cell)
    return None if result is None else result["measures"].get(str(budget))


def summary_at(out: Path, cell: Cell, budget: int) -> dict[str, Any]:
    """The figures of a run at a budget; see `measure.summary`."""
    from evaluation.testbed.measure import Answer

    measure = measure_at(out, cell, budget)
    assert measure is not None, f"{cell.name} was measured at {budget}"
    return summary([Answer(*answer) for answer in measure["answers"]])


def make_tokenizer(config: TestbedConfig, world: World, out: Path) -> Tokenizer:
    """The tokenizer of all runs, trained once on what the variants read.

    It is trained twice: what our composer says around an article is known only when there is a
    tokenizer to measure its length with. No question is about a held-out entity: its name is in
    the articles, and of question wordings that are never trained on there are the words alone.
    """
    folder = out / "tokenizer"
    if (folder / "byte_lengths.npy").exists():
        return load_tokenizer(str(folder))
    return train_tokenizer(config, world, folder)


def train_tokenizer(config: TestbedConfig, world: World, folder: Path) -> Tokenizer:
    """As `make_tokenizer`, anew, into a folder."""
    import tempfile

    from data.config import SentencePieceConfig

    settings = SentencePieceConfig(vocab_size=config.vocab_size)
    texts = list(_tokenizer_texts(world, config.domain.seed))
    with tempfile.TemporaryDirectory() as first:
        convert = comprehension(train_sentencepiece(texts, first, settings), _COMPOSED_TOKENS)
        taught = write_articles(world.domain, world.domain.taught, range(2), config.domain.seed)
        for document in convert(article.document() for article in taught):
            texts += [turn.text for turn in document.turns]
    return train_sentencepiece(texts, folder, settings)


def _tokenizer_texts(world: World, seed: int) -> Iterator[str]:
    for domain, taught in (
        (world.domain, world.domain.taught),
        (world.general, list(world.general.entities)),
    ):
        for article in write_articles(domain, domain.entities, range(_TOKENIZER_WORDINGS), seed):
            yield article.text
        for document in question_documents(domain, taught):
            yield " ".join(turn.text for turn in document.turns)
        for attribute in domain.wording.attributes.values():
            for question in attribute.unseen:
                yield question.replace(NAME, "")


def _keep_settings(config: TestbedConfig, out: Path) -> None:
    """Writes what the figures depend on, or checks that it is what the runs there were made with."""
    settings = json.loads(json.dumps(config.model_dump(mode="json", exclude=_APART)))
    path = out / "settings.json"
    if path.exists():
        before = json.loads(path.read_text())
        keys = sorted({*before, *settings})
        differ = [key for key in keys if before.get(key) != settings.get(key)]
        if differ:
            told = "; ".join(f"{k}: {before.get(k)} there, {settings.get(k)} now" for k in differ)
            raise ValueError(f"out_dir: {out} holds runs of other settings ({told}); name another")
    else:
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings, indent=1) + "\n")


# --- running ---------------------------------------------------------------------------------------


def _workers(config: TestbedConfig) -> Executor:
    """Processes that begin afresh, each with one thread on a CPU where there are several."""
    if config.workers > 1:
        os.environ["XLA_FLAGS"] = (
            "--xla_cpu_multi_thread_eigen=false " + os.environ.get("XLA_FLAGS", "")
        ).strip()
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ.setdefault(name, "1")
    return ProcessPoolExecutor(
        config.workers,
        mp_context=multiprocessing.get_context("spawn"),
    )


def _run_all(pool: Executor, config: TestbedConfig, cells: Sequence[Cell], budget: int) -> None:
    out, began = Path(config.out_dir), time.monotonic()
    pending = [cell for cell in cells if measure_at(out, cell, budget) is None]
    if not pending:
        return
    print(f"{len(pending)} runs to {budget:,} tokens, {config.workers} at a time", flush=True)
    jobs = {pool.submit(_job, config, cell, budget): cell for cell in pending}
    try:
        for done, job in enumerate(as_completed(jobs), start=1):
            measure, cell = job.result(), jobs[job]
            figures = summary_at(out, cell, budget)
            print(
                f"[{done}/{len(pending)}] {cell.name}: memorised {figures['memorised']:.2f}, "
                f"answers {figures['seen']['greedy'] or 0:.2f} (a wording never seen "
                f"{figures['unseen']['greedy'] or 0:.2f}); {measure['seconds']:.0f} s, "
                f"{measure['cpu_seconds']:.0f} s of a processor; "
                f"{(time.monotonic() - began) / 60:.1f} min so far",
                flush=True,
            )
    finally:
        for job in jobs:
            job.cancel()


@dataclass
class _Bench:
    """What a worker keeps between its runs."""

    world: World
    tokenizer: Tokenizer
    trainer: Any
    streams: dict[tuple[str, Wordings], Packed]
    synthesize: Convert | None = None


@functools.lru_cache(maxsize=1)
def _bench(config: str) -> _Bench:
    """A worker's first work: one tokenizer and one compiled step for all of its runs."""
    from evaluation.testbed.train import Trainer

    read = TestbedConfig.model_validate_json(config)
    world = make_world(read)
    tokenizer = load_tokenizer(f"{read.out_dir}/tokenizer")
    items = make_items(world.domain, world.domain.held_out, read.domain.seed)
    synthesize = None
    if "synthesizer" in read.variants:
        from evaluation.testbed.synthesizer import open_synthesizer

        synthesize = open_synthesizer(read, tokenizer)
    return _Bench(world, tokenizer, Trainer(read, tokenizer, items), {}, synthesize)


def _job(config: TestbedConfig, cell: Cell, budget: int) -> dict[str, Any]:
    """Takes one run to a budget and keeps what came of it."""
    bench, out = _bench(config.model_dump_json()), Path(config.out_dir)
    weights = shares(config, cell.variant)
    streams = []
    for name in sorted(weights):
        key = name, cell.wordings
        if key not in bench.streams:
            bench.streams[key] = make_stream(
                config, bench.world, bench.tokenizer, name, cell.wordings, bench.synthesize
            )
        streams.append(bench.streams[key])
    folder = out / "runs" / cell.name
    measured = bench.trainer.run(
        streams, weights, seed=cell.seed, budget=budget, run_dir=str(folder)
    )
    result = read_result(out, cell) or {"cell": asdict(cell), "measures": {}}
    result["about"] = bench.trainer.about
    result["streams"] = {
        packed.stream.name: {
            "share": weights[packed.stream.name],
            "tokens": packed.stream.info["tokens"],
            "rows": packed.stream.num_rows,
        }
        for packed in streams
    }
    measure = asdict(measured)
    measure["answers"] = [list(answer.values()) for answer in measure["answers"]]
    result["measures"][str(budget)] = measure
    partial = folder / "result.json.partial"
    partial.write_text(json.dumps(result) + "\n")
    partial.replace(folder / "result.json")
    return {"seconds": measured.seconds, "cpu_seconds": measured.cpu_seconds}
