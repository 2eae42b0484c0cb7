"""How fast text becomes packed rows: `python -m tests.benchmarks.prepare [--input FILE.jsonl.gz] [--tokenizer PATH]`.

Prepares one corpus with 1 and with 2 (`--workers`) processes, from JSONL to packed rows, tokenizing included, and prints
megabytes of text a second by the clock, and to a second of processor time (which other work on the machine does not
change). The defaults read MedQuAD and the LLaMA-2 tokenizer from the folder in LECTERN_REALDATA.
"""

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

from data.config import PrepareConfig
from data.prepare import prepare
from data.rows import read_stream


def main() -> None:
    """The command line."""
    real = Path(os.environ.get("LECTERN_REALDATA", "."))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", default=str(real / "medquad.jsonl.gz"))
    parser.add_argument("--field", default="answer", help="the field with the text")
    parser.add_argument(
        "--group", default="url", help="the field with the group; '' compares near duplicates"
    )
    parser.add_argument("--tokenizer", default=str(real / "llama2-tokenizer.model"))
    parser.add_argument("--seq_len", type=int, default=2048)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--copies", type=int, default=1, help="read the input so many times over")
    options = parser.parse_args()
    fields = {"text": options.field} | ({"group": options.group} if options.group else {})
    for workers in options.workers:
        with tempfile.TemporaryDirectory() as out:
            corpora = {
                f"copy{i}": {"path": options.input, "fields": fields} for i in range(options.copies)
            }
            settings = {
                "tokenizer": options.tokenizer,
                "seq_len": options.seq_len,
                "corpora": corpora,
            }
            config = PrepareConfig.model_validate(settings | {"out_dir": out, "workers": workers})
            clock, processor = time.perf_counter(), _processor_seconds()
            prepare(config)
            clock, processor = time.perf_counter() - clock, _processor_seconds() - processor
            megabytes = tokens = places = 0.0
            for name in corpora:
                stream = read_stream(f"{out}/{name}") or {}
                tokens += stream["tokens"]
                places += stream["num_rows"] * options.seq_len
                megabytes += _megabytes(f"{out}/{name}")
        print(
            f"{workers} workers: {megabytes:.1f} MB in {clock:.1f} s = {megabytes / clock:.2f} MB/s; "
            f"{processor:.1f} s of processor = {megabytes / processor:.2f} MB/s a core; "
            f"fill {100 * tokens / places:.2f} %"
        )


def _megabytes(folder: str) -> float:
    import json

    return json.loads((Path(folder) / "card.json").read_text())["bytes_in"] / 1e6


def _processor_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


if __name__ == "__main__":
    main()
