"""Raw corpora into packed streams: `python -m data.prepare RECIPE [key.path=value ...]`.

1. **Deal.** Every input is read once; documents go to buckets by the hash of their id, sorted by
   id (`corpus.py`, on top of `sources.py` and `executor.py`).
2. **Split.** Which groups are held out is decided once, over all corpora together (`split.py`).
3. **Tokenizer.** The recipe's, or one trained on documents that are not held out.
4. **Partitions.** Each is converted, tokenized once and packed into one shard, on its own and in
   any process (`partition.py`, on top of `chat.py`, `pack.py` and `rows.py`).
5. **Finish.** The held-out rows (`heldout.py`), the card, the metadata and, last, `stream.json`.

What comes out is a function of the documents and the recipe: byte for byte the same for any number
and order of input files, any number of workers and any hash seed (`run.json`, with times and hosts,
and the places in `set_aside` aside). A run that was killed goes on where it was: finished
partitions are kept (`job.py`). A finished one does nothing when it is run again.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path as LocalPath
from typing import Any

from etils import epath

from data import rows as rows_lib
from data.card import make_card, print_table
from data.config import PrepareConfig
from data.corpus import ReadCorpus, read_corpora
from data.document import Document, draw
from data.executor import BUCKETS, read_lines
from data.heldout import finish_heldout
from data.job import Job, identity
from data.partition import PartitionTask, build_partitions, partition_tasks, stream_facts
from data.split import Split, decide


def prepare(config: PrepareConfig) -> dict[str, dict[str, Any]]:
    """Prepares every corpus of a recipe and gives its `stream.json`, by name.

    Raises:
        ValueError: the recipe, a source or the tokenizer is not as it must be; the message says
            what to do.
        ChildProcessError: a worker was killed.
    """
    job = Job(config)
    pending = [name for name in config.corpora if not job.is_finished(name)]
    if pending:
        for name in pending:
            job.begin(name)
        read = read_corpora(job, pending)
        split = _split(job, read)
        tokenizer = job.save_tokenizer(lambda: _tokenizer_texts(job, split, read))
        tasks = {name: partition_tasks(job, name, read[name], tokenizer) for name in pending}
        num_bytes = sum(read[name].counts["bytes"] for name in pending)
        build_partitions(job, list(itertools.chain(*tasks.values())), num_bytes)
        cards = [_finish(job, name, tasks[name], read[name]) for name in pending]
        job.clean_up()
        print_table(cards)
        _say_what_next(config, cards)
    else:
        job.clean_up()  # a run may have been killed while it did this
        print(f"{config.out_dir}: prepared already, nothing to do.")
    return {name: rows_lib.read_stream(job.out / name) or {} for name in config.corpora}


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    import sys

    from configs.load import command, recipe_yaml, user_errors

    config, options = command(PrepareConfig, sys.argv[1:] if argv is None else argv, __doc__ or "")
    with user_errors():
        if options.dry_run:
            print(recipe_yaml(config))
            _print_plan(config)
            return
        try:
            prepare(config)
        except KeyboardInterrupt:
            print("\nInterrupted. Run the same command to go on; finished partitions are kept.")
            raise SystemExit(130) from None


def _split(job: Job, read: dict[str, ReadCorpus]) -> Split:
    """What is held out; also left in a file, for the processes that make partitions."""
    split = Split(job.config.heldout.fraction)
    if job.near_duplicates:
        files = [LocalPath(f) / "signatures" for item in read.values() for f in item.folders]
        split = decide(files, job.config.heldout.fraction)
    rows_lib.write_json(job.spool / "split.json", asdict(split))
    return split


def _tokenizer_texts(job: Job, split: Split, read: dict[str, ReadCorpus]) -> Iterator[str]:
    """A sample of the documents trained on, drawn by their ids, at most `sample_mb` of it."""
    assert job.config.train_tokenizer is not None
    total = sum(item.counts["bytes"] for item in read.values())
    share = job.config.train_tokenizer.sample_mb * 1e6 / max(total, 1)
    for item in read.values():
        for line in read_lines(item.runs, range(job.config.partitions or BUCKETS)):
            document = Document.from_json(line)
            if split.is_held_out(document):
                continue
            if share >= 1 or draw(document.id, "tokenizer sample").random() < share:
                yield from (turn.text for turn in document.turns)


def _finish(
    job: Job, name: str, tasks: Sequence[PartitionTask], read: ReadCorpus
) -> dict[str, Any]:
    """Writes what completes a stream, `stream.json` last. Gives the card."""
    counts = [json.loads(task.record.read_text()) for task in tasks]
    dealt = sum(item["documents_in"] + item["heldout"] for item in counts)
    if dealt != read.counts["documents"]:
        raise AssertionError(f"{name}: {read.counts['documents']} documents read, {dealt} dealt")
    if not sum(item["rows"] for item in counts):
        raise ValueError(
            f"corpora.{name}: all {read.counts['documents']} documents are held out; "
            f"lower heldout.fraction ({job.config.heldout.fraction}) or give more documents"
        )
    out = job.out / name
    set_aside = sorted(
        line
        for path in [epath.Path(f) / "set_aside.jsonl.zst" for f in read.folders]
        + [task.set_aside for task in tasks]
        for line in rows_lib.read_lines(path)
    )
    rows_lib.write_lines(out / "set_aside.jsonl.zst", set_aside)
    heldout = finish_heldout(job, name, tasks)
    card = make_card(
        name,
        job.config.corpora[name],
        seq_len=job.config.seq_len,
        read=read.counts,
        partitions=counts,
        heldout=heldout,
    )
    rows_lib.write_json(out / "card.json", card)
    rows_lib.write_json(out / "run.json", job.run_facts(name, card["bytes_in"]))
    stream = stream_facts(tasks[0], name, card["documents_out"], card)
    rows_lib.write_stream(out, stream, [item["rows"] for item in counts], card)
    return card


def _say_what_next(config: PrepareConfig, cards: list[dict[str, Any]]) -> None:
    for card in cards:
        if config.heldout.fraction and not card["heldout"]["documents"]:
            print(
                f"{card['name']}: no document is held out "
                f"(heldout.fraction={config.heldout.fraction} of few groups); "
                "its held-out loss cannot be measured."
            )
    paths = [f"{config.out_dir}/{card['name']}" for card in cards]
    print(f"\nStreams:  {', '.join(paths)}")
    print(f"Look:     python -m data.inspect {config.out_dir}")
    print(f"Train:    name them in a recipe, as streams.{cards[0]['name']}.path={paths[0]}")


def _print_plan(config: PrepareConfig) -> None:
    job = Job(config)
    for name, inputs in job.inputs.items():
        sizes = [identity(item).get("bytes") or 0 for item in inputs]
        state = "prepared already" if job.is_finished(name) else "to prepare"
        count = config.partitions or "by size, at most 64"
        print(
            f"{name}: {len(inputs)} inputs, {sum(sizes) / 1e6:,.1f} MB as stored; "
            f"partitions: {count}; {state}"
        )
        for item, size in itertools.islice(zip(inputs, sizes, strict=True), 5):
            print(f"  {item}  {size / 1e6:,.1f} MB")
        if len(inputs) > 5:
            print(f"  ... and {len(inputs) - 5} more")


if __name__ == "__main__":
    main()
