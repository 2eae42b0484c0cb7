"""Raw corpora into packed streams: `python -m data.prepare RECIPE [key.path=value ...]`.

1. **Deal.** Every input is read once; documents go to buckets by the hash of their id, sorted by
   id (`corpus.py`, on top of `sources.py` and `runs.py`).
2. **Clean.** Every document by itself, and what is noted of it (`cleaning.py`, `clean/`).
3. **Decide**, once and over all corpora together: which documents are held out, which are copies of
   others, which hold items of a test (`decision.py`). A recipe that asks for nothing of the kind
   has neither this pass nor the one before; its documents are cleaned when they are converted.
4. **Vocabularies.** The tokenizer is the recipe's, or trained on documents that are trained on; so
   are the domain words of a corpus that becomes reading comprehension (`vocabularies.py`).
5. **Partitions.** Each is converted, tokenized once and packed into one shard, on its own and in
   any process (`partition.py`, on top of `conversion.py`, `pack.py` and `rows.py`).
6. **Finish.** The held-out rows (`heldout.py`), the card, the metadata and, last, `stream.json`.

What comes out is a function of the documents and the recipe: byte for byte the same for any number
and order of input files, any number of workers, any hash seed, on one machine or on a Beam cluster
(`run.json`, with times and hosts, and the places in `set_aside` aside). A run that was killed goes
on where it was: what every pass has finished is kept (`job.py`). A finished one does nothing when
it is run again.

Flags that are not ours go to Apache Beam, if `--beam_runner=NAME` is there (docs/prepare.md).
"""

import heapq
import itertools
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any

from etils import epath

from data import rows as rows_lib
from data.card import Counts, add_counts, make_card, print_profile, print_table
from data.card_page import write_card_page
from data.cleaning import CleanTask, clean_corpora
from data.config import PrepareConfig
from data.conversion import REWRITES, Conversion, Writer
from data.corpus import Corpus, read_corpora
from data.decision import Decision, decide
from data.executor import Executor, LocalExecutor
from data.heldout import finish_heldout
from data.job import Job, identity
from data.partition import (
    PartitionTask,
    build_partitions,
    partition_tasks,
    stream_facts,
)
from data.tokenizer import Tokenizer, load_tokenizer
from data.vocabularies import domain_vocabularies, tokenizer_texts

# Text of a corpus whose tokens are counted before conversion too, where conversion rewrites it.
MEASURED_BYTES = 1_000_000
# Inputs of so many bytes as stored take several processes longer than starting them does.
WORTH_WARMING = 4_000_000


def prepare(
    config: PrepareConfig,
    *,
    executor: Executor | None = None,
    open_writer: Callable[[PrepareConfig], Writer] | None = None,
    profile: bool = False,
    share: tuple[int, int] = (0, 1),
) -> dict[str, dict[str, Any]]:
    """Prepares every corpus of a recipe and gives its `stream.json`, by name.

    Args:
        config: the recipe.
        executor: where the passes run; default: processes of this machine.
        open_writer: gives what writes the pairs of `convert: synthesis`; called where there is a
            corpus to write for.
        profile: print processor seconds per stage at the end.
        share: make the partitions of this share alone, (1, 8): the second of eight hosts. Whoever
            prepares afterwards finds them finished and completes the streams.

    Raises:
        ValueError: the recipe, a source or the tokenizer is not as it must be; the message says
            what to do.
        ChildProcessError: a worker was killed.
    """
    job = Job(config, executor)
    try:
        return _prepare(job, open_writer, profile, share)
    finally:
        job.executor.close()


def _prepare(
    job: Job,
    open_writer: Callable[[PrepareConfig], Writer] | None,
    profile: bool,
    share: tuple[int, int],
) -> dict[str, dict[str, Any]]:
    config = job.config
    if share[1] > 1:  # hosts may see one out_dir, and must not deal into the same files
        key = sha256(str(job.out).encode()).hexdigest()[:12]
        name = f"lectern-share-{key}-{share[0]}-of-{share[1]}"
        job.spool = epath.Path(tempfile.gettempdir()) / name
    pending = [name for name in config.corpora if not job.is_finished(name)]
    if not pending:
        job.clean_up()  # a run may have been killed while it did this
        print(f"{config.out_dir}: prepared already, nothing to do.")
        return _streams(job)
    for name in pending:
        job.begin(name, alone=share[1] == 1)
    if isinstance(job.executor, LocalExecutor) and _stored_bytes(job, pending) > WORTH_WARMING:
        job.executor.warm()
    with job.timed("deal"):
        corpora = read_corpora(job, pending)
    with job.timed("clean"):
        corpora, cleaned = clean_corpora(job, corpora)
    with job.timed("decide"):
        decision = decide(job, cleaned)
    writes = any(config.corpora[name].convert == "synthesis" for name in pending)
    if writes and open_writer is None:
        raise ValueError("convert: synthesis needs a generator; run python -m data.prepare")
    writer = open_writer(config) if writes and open_writer else None
    with job.timed("vocabularies"):
        tokenizer = job.save_tokenizer(lambda: tokenizer_texts(job, corpora, decision))
        tasks = {}
        for name in pending:
            conversion = _conversion(job, corpora[name], decision, tokenizer, writer)
            tasks[name] = partition_tasks(job, corpora[name], decision, conversion)
    with job.timed("partitions"):
        num_bytes = sum(corpora[name].counts["bytes"] for name in pending)
        chosen = [t for t in itertools.chain(*tasks.values()) if t.partition % share[1] == share[0]]
        build_partitions(job, chosen, num_bytes)
        if writer and writer.used:
            print(f"{writer.model}: {writer.used()}")
    if share[1] > 1:
        job.spool.rmtree()
        print(
            f"{len(chosen)} partitions of this share are made; after the last, run without --share"
        )
        return {}
    with job.timed("finish"):
        cards = [_finish(job, tasks[name], corpora[name], decision) for name in pending]
    if profile:
        _print_profile(job, corpora, cleaned, tasks)
    job.clean_up()
    print_table(cards)
    _say_what_next(config, cards)
    return _streams(job)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    import sys

    from configs.load import Flag, command, recipe_yaml, user_errors
    from data.beam import BeamExecutor, split_flags

    argv, beam_flags = split_flags(sys.argv[1:] if argv is None else argv)
    flags = [
        Flag("profile", "print processor seconds per stage at the end"),
        Flag("share", "make this share of the partitions and stop: 1/8 on the second of eight hosts "
             "(of 0 to 7) that see one out_dir; run without it afterwards, on any of them", "I/N"),
        Flag("limit", "read at most so many documents of every corpus", "N"),
        Flag("beam_runner", "run on Apache Beam (DirectRunner, DataflowRunner, FlinkRunner, ...); "
             "every --name=value that is not ours goes to Beam", "NAME"),
    ]  # fmt: skip
    config, options = command(PrepareConfig, argv, __doc__ or "", flags=flags)
    with user_errors():
        if (limit := options.flags["limit"]) is not None:
            config = _limited(config, limit)
        runner = options.flags["beam_runner"]
        executor = BeamExecutor((f"--runner={runner}", *beam_flags)) if runner else None
        if options.dry_run:
            print(recipe_yaml(config))
            _print_plan(Job(config, executor))
            return
        try:
            profile = bool(options.flags["profile"])
            share = _share(options.flags["share"])
            prepare(
                config, executor=executor, open_writer=_open_writer, profile=profile, share=share
            )
        except KeyboardInterrupt:
            print("\nInterrupted. Run the same command to go on; finished partitions are kept.")
            raise SystemExit(130) from None


def _open_writer(config: PrepareConfig) -> Writer:
    """The recipe's generator: a model on this machine's devices, or a server."""
    generator = config.generator
    assert generator is not None
    named = load_tokenizer(generator.tokenizer) if generator.tokenizer else None
    if generator.kind == "openai":
        from data.server import Server

        server = Server(generator)
        return Writer(server.generate, generator.model, named, lambda: str(server.usage))
    from model.config import GenerationConfig
    from model.generate import open_engine

    engine = open_engine(generator.model, GenerationConfig.model_validate(generator.engine))
    return Writer(engine.generate, generator.model, named or engine.tokenizer)


def _conversion(
    job: Job,
    corpus: Corpus,
    decision: Decision,
    tokenizer: Tokenizer,
    writer: Writer | None,
) -> Conversion:
    """How the documents of a corpus are converted, its vocabularies trained."""
    config = job.config
    return Conversion(
        name=corpus.name,
        corpus=config.corpora[corpus.name],
        tokenizer=tokenizer,
        seq_len=config.seq_len,
        add_bos=job.add_bos(tokenizer),
        add_eos=config.add_eos,
        vocabularies=domain_vocabularies(job, corpus, decision),
        measured=1.0 if config.count_tokens_in else MEASURED_BYTES / corpus.counts["bytes"],
        writer=writer if config.corpora[corpus.name].convert == "synthesis" else None,
    )


def _finish(
    job: Job, tasks: Sequence[PartitionTask], corpus: Corpus, decision: Decision
) -> dict[str, Any]:
    """Writes what completes a stream, `stream.json` last. Gives the card."""
    name, conversion = corpus.name, tasks[0].conversion
    counts = [json.loads(task.record.read_text())["counts"] for task in tasks]
    _account(job, corpus, counts)
    out = job.out / name
    set_aside = [rows_lib.read_lines(path) for path in corpus.set_aside]
    set_aside += [rows_lib.read_lines(task.set_aside) for task in tasks]
    rows_lib.write_lines(out / "set_aside.jsonl.zst", heapq.merge(*set_aside))
    card = make_card(
        name,
        job.config.corpora[name],
        seq_len=job.config.seq_len,
        read=corpus.counts,
        partitions=counts,
        heldout=finish_heldout(job, name, tasks),
        facts={"contamination": decision.contamination(name), "vocabularies": conversion.told()},
        ends=conversion.add_bos + conversion.add_eos,
    )
    rows_lib.write_json(out / "card.json", card)
    write_card_page(out)
    rows_lib.write_json(out / "run.json", job.run_facts(name, card["bytes_in"]))
    stream = stream_facts(conversion, name, card["documents_out"], card)
    rows_lib.write_stream(out, stream, [item.get("rows", 0) for item in counts], card)
    return card


def _account(job: Job, corpus: Corpus, partitions: Sequence[Counts]) -> None:
    """Every document that was read is held out, taken away with a reason, or in the stream."""
    total: Counts = {}
    for counts in partitions:
        add_counts(total, counts)
    read, heldout = corpus.counts["documents"], total.get("heldout", 0)
    kept, removed = total.get("documents_kept", 0), total.get("removed", {})
    gone = sum(
        sum(reasons.values())
        for stage, reasons in removed.items()
        if stage not in ("tokenize", *REWRITES)  # these come after, and may take parts of documents
    )
    if read != heldout + kept + gone:
        raise AssertionError(
            f"{corpus.name}: of {read} documents {heldout} are held out, {gone} removed, {kept} kept"
        )
    if not total.get("rows"):
        raise ValueError(
            f"corpora.{corpus.name}: "
            + (f"all {read} documents are held out" if heldout == read else "nothing is left of it")
            + f"; lower heldout.fraction ({job.config.heldout.fraction}) or give more documents"
            + (f" (removed: {removed})" if removed else "")
        )


def _stored_bytes(job: Job, names: Sequence[str]) -> int:
    return sum(identity(item).get("bytes") or 0 for name in names for item in job.inputs[name])


def _streams(job: Job) -> dict[str, dict[str, Any]]:
    return {name: rows_lib.read_stream(job.out / name) or {} for name in job.config.corpora}


def _share(said: str | None) -> tuple[int, int]:
    number, _, count = (said or "0/1").partition("/")
    if not (number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise ValueError(f"--share: {said!r} is not of the form I/N with I from 0 to N - 1")
    return int(number), int(count)


def _limited(config: PrepareConfig, limit: str) -> PrepareConfig:
    if not limit.isdecimal() or not int(limit):
        raise ValueError(f"--limit: {limit!r} is not a number of documents; give one from 1 on")
    corpora = {n: c.model_copy(update={"limit": int(limit)}) for n, c in config.corpora.items()}
    return config.model_copy(update={"corpora": corpora})


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


def _print_profile(
    job: Job,
    corpora: Mapping[str, Corpus],
    cleaned: Sequence[CleanTask],
    tasks: Mapping[str, Sequence[PartitionTask]],
) -> None:
    seconds: Counts = {"deal": {}, "clean": {}, "partitions": {}}
    for corpus in corpora.values():
        add_counts(seconds["deal"], corpus.counts["seconds"])
    for pass_, records in (("clean", cleaned), ("partitions", itertools.chain(*tasks.values()))):
        for task in records:
            add_counts(seconds[pass_], json.loads(task.record.read_text())["seconds"])
    num_bytes = sum(corpus.counts["bytes"] for corpus in corpora.values())
    print_profile(seconds, job.seconds, num_bytes / 1e6)


def _print_plan(job: Job) -> None:
    config = job.config
    passes = ["deal", "clean", "decide"] if job.compares else ["deal"]
    print(f"passes: {', '.join([*passes, 'vocabularies', 'partitions', 'finish'])}; {job.executor}")
    for name, inputs in job.inputs.items():
        sizes = [identity(item).get("bytes") or 0 for item in inputs]
        state = "prepared already" if job.is_finished(name) else "to prepare"
        print(
            f"{name}: {len(inputs)} inputs, {sum(sizes) / 1e6:,.1f} MB as stored; "
            f"convert: {config.corpora[name].convert}; "
            f"partitions: {config.partitions or 'by size, at most 64'}; {state}"
        )
        for item, size in itertools.islice(zip(inputs, sizes, strict=True), 5):
            print(f"  {item}  {size / 1e6:,.1f} MB")
        if len(inputs) > 5:
            print(f"  ... and {len(inputs) - 5} more")


if __name__ == "__main__":
    main()
