"""What is mined from the twelve published samples: `python -m tests.benchmarks.comprehension`.

Prints a table in Markdown, documents by families, of the candidate pool before caps and sampling,
beside the published tasks that it holds; and how fast mining is on MedQuAD (`--speed`). Reads the
folder in LECTERN_REALDATA.
"""

import argparse
import gzip
import json
import os
import time
from collections import Counter
from pathlib import Path

from data.comprehension.language import load_language
from data.comprehension.mine import mine
from data.comprehension.mined import Mined
from data.comprehension.vocabulary import Vocabulary, load_vocabulary
from data.tokenizer import load_tokenizer
from tests.data.comprehension.published import NUM_SAMPLES, article, is_mined, published_tasks

COLUMNS = (
    "inference",
    "contrast",
    "addition",
    "restatement",
    "cause",
    "keyword",
    "definition",
    "topic",
    "question",
    "section",
)


def samples_vocabulary(folder: Path) -> Vocabulary:
    """The keywords of the samples' two vocabularies."""
    general = load_tokenizer(folder / "general.spm")
    return load_vocabulary(folder / "domain.spm", general, load_language("en"))


def kind_of(task: Mined) -> str:
    """The column of a task; twins share the first of theirs."""
    names = {
        "entail": "inference",
        "contradict": "contrast",
        "different": "contrast",
        "neutral": "addition",
        "similar": "restatement",
    }
    return names.get(task.label, task.family)


def relational(pool: list[Mined]) -> dict[str, str]:
    """Distinct related pairs of a pool, and the column of each."""
    kinds: dict[str, str] = {}
    for task in pool:
        if task.family in ("nli", "paraphrase", "cause"):
            kind = kind_of(task)
            if kind != "cause" or task.pair not in kinds:
                kinds[task.pair] = kind
    return kinds


def counts(pool: list[Mined]) -> Counter[str]:
    """Tasks by column; twins once, definitions not again as questions."""
    columns = Counter(relational(pool).values())
    for task in pool:
        asked = task.family == "question" and task.label != "definition"
        if asked or task.family in ("keyword", "definition", "topic", "section"):
            columns[kind_of(task)] += 1
    return columns


def table(folder: Path) -> str:
    """The table of all samples."""
    language, vocabulary = load_language("en"), samples_vocabulary(folder)
    lines = [
        "| document | "
        + " | ".join(COLUMNS)
        + " | published, distinct and sound | of these mined |",
        "|---" * (len(COLUMNS) + 3) + "|",
    ]
    total: Counter[str] = Counter()
    for number in range(NUM_SAMPLES):
        text = article(folder, number)
        pool = mine(text, language, vocabulary)
        published = published_tasks(folder, number)
        row = counts(pool) | Counter(
            published=len(published), found=sum(is_mined(task, pool) for task in published)
        )
        total += row
        lines.append(_line(str(number), row))
    lines.append(_line("**all**", total))
    pairs = sum(total[column] for column in COLUMNS[:5])
    return "\n".join([*lines, "", f"Related pairs (the first five columns): {pairs}."])


def _line(name: str, row: Counter[str]) -> str:
    cells = [str(row[column] or "") for column in (*COLUMNS, "published", "found")]
    return f"| {name} | " + " | ".join(cells) + " |"


def speed(realdata: Path) -> str:
    """Megabytes of MedQuAD mined in a second of processor time."""
    with gzip.open(realdata / "medquad.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["answer"] for line in file]
    language, vocabulary = load_language("en"), samples_vocabulary(realdata / "adaptllm")
    mine(texts[0], language, vocabulary)  # compiles what is compiled once
    start = time.process_time()
    for text in texts:
        mine(text, language, vocabulary)
    seconds = time.process_time() - start
    size = sum(len(text.encode()) for text in texts) / 1e6
    return f"{size:.1f} MB in {seconds:.1f} s: {size / seconds:.1f} MB/s of processor time"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--speed", action="store_true", help="mine MedQuAD and say how fast")
    options = parser.parse_args()
    realdata = Path(os.environ.get("LECTERN_REALDATA", "../shared/realdata"))
    print(table(realdata / "adaptllm"))
    if options.speed:
        print(speed(realdata))


if __name__ == "__main__":
    main()
