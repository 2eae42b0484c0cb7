"""How fast text becomes packed rows: `python -m tests.benchmarks.prepare [medquad] [pubmedqa] [--convert raw ...]`.

Prepares a corpus with 1 and with 2 (`--workers`) processes, from JSONL to packed rows, with everything that is on by
default and each conversion asked for, and prints megabytes of text a second by the clock, and to a second of processor
time (which other work on the machine changes less). `pubmedqa` is its abstracts said again, each time under a line that
tells the copies apart, until they are 20 MB; as near duplicates would go, only equal texts are looked for there.
LECTERN_REALDATA names the folder of both, and of the LLaMA-2 tokenizer.
"""

import argparse
import gzip
import json
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from data.config import PrepareConfig
from data.prepare import prepare
from data.rows import read_stream

SIZE = 20_000_000


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpora", nargs="*", default=["medquad", "pubmedqa"])
    parser.add_argument("--convert", nargs="*", default=["comprehension"])
    parser.add_argument("--no-clean", action="store_true", help="leave the documents as they are")
    parser.add_argument("--seq_len", type=int, default=2048)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    real = Path(os.environ["LECTERN_REALDATA"])
    settings: dict[str, Any] = {
        "tokenizer": str(real / "llama2-tokenizer.model"),
        "seq_len": options.seq_len,
    }
    if options.no_clean:
        settings["clean"] = None
    with tempfile.TemporaryDirectory() as folder:
        for name in options.corpora:
            corpus = _medquad(real) if name == "medquad" else _pubmedqa(real, Path(folder))
            if name == "pubmedqa" and not options.no_clean:
                settings["clean"] = {"dedup": {"threshold": 1}}
            for convert in options.convert:
                corpora = {"corpus": corpus | {"convert": convert}}
                for workers in options.workers:
                    _measure(name, settings | {"corpora": corpora}, workers, options.profile)


def _measure(name: str, settings: dict[str, Any], workers: int, profile: bool) -> None:
    with tempfile.TemporaryDirectory() as out:
        config = PrepareConfig.model_validate(settings | {"out_dir": out, "workers": workers})
        clock, processor = time.perf_counter(), _processor_seconds()
        prepare(config, profile=profile)
        clock, processor = time.perf_counter() - clock, _processor_seconds() - processor
        stream = read_stream(f"{out}/corpus") or {}
        card = json.loads(Path(f"{out}/corpus/card.json").read_text())
    megabytes = card["bytes_in"] / 1e6
    print(
        f"{name}, {card['convert']}, {workers} workers: {megabytes:.1f} MB in {clock:.1f} s = "
        f"{megabytes / clock:.2f} MB/s; {processor:.1f} s of processor = "
        f"{megabytes / processor:.2f} MB/s a core; {card['documents_kept']:,} of "
        f"{card['documents_in']:,} documents kept, {stream['tokens']:,} tokens, "
        f"fill {100 * card['fill']:.2f} %",
        flush=True,
    )


def _medquad(real: Path) -> dict[str, Any]:
    fields = {"text": "answer", "title": "focus", "group": "url"}
    return {"path": str(real / "medquad.jsonl.gz"), "fields": fields}


def _pubmedqa(real: Path, folder: Path) -> dict[str, Any]:
    path = folder / "pubmedqa.jsonl"
    with gzip.open(real / "pubmedqa_labeled.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    with path.open("w") as file:
        size = copy = 0
        while size < SIZE:
            for row in rows:
                text = f"Copy {copy}.\n" + "\n\n".join(row["contexts"])
                line = {"title": row["question"], "text": text, "group": str(row["pmid"])}
                file.write(json.dumps(line) + "\n")
                size += len(text.encode())
            copy += 1
    return {"path": str(path), "fields": {"text": "text", "title": "title", "group": "group"}}


def _processor_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


if __name__ == "__main__":
    main()
