"""What cleaning finds and what it costs: `python -m tests.benchmarks.cleaning [--real FOLDER] [--copies N]`.

Prints, for the real text in LECTERN_REALDATA: megabytes a second of processor time for each stage; planted copies of
MedQuAD pages that are found, at both thresholds; documents removed without a partner that stays; planted test questions
that are found, by how they were disguised; real documents taken for test items; and the time of adversarial texts against
prose. Everything is drawn by seed.
"""

import argparse
import gzip
import json
import os
import random
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from data.benchmarks import read_items
from data.clean.config import CleanConfig
from data.clean.stages import Cleaned, cleaners
from data.clean.survey import Surveyor
from data.clean.words import jaccard, word_hashes, words_of
from data.document import Document
from data.tally import Tally
from tests.data.clean import test_linear as linear
from tests.data.clean.judged import Judged, conversation, judge, text

TASKS = (
    "mqp",
    "pubmedqa",
    "gsm8k",
    "arc_challenge",
    "arc_easy",
    "boolq",
    "openbookqa",
    "piqa",
    "winogrande",
)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", default=os.environ.get("LECTERN_REALDATA", ""))
    parser.add_argument("--copies", type=int, default=1500, help="pages to plant copies of")
    parser.add_argument(
        "--questions", type=int, default=200, help="test questions to plant, a task"
    )
    options = parser.parse_args()
    real = Path(options.real)
    os.environ["LECTERN_REALDATA"] = str(real)
    with gzip.open(real / "medquad.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    pages = [text(f"{row['focus']}\n{row['answer']}") for row in rows if row["answer"].strip()]
    _speed(pages)
    _copies(pages, options.copies)
    _questions(pages, options.questions)
    asked = [conversation(row["question"], row["answer"] or "-") for row in rows]
    _real_contamination(real, pages, asked)
    _adversarial()


def _speed(pages: Sequence[Document]) -> None:
    megabytes = sum(page.num_bytes for page in pages) / 1e6
    print(f"\n{len(pages):,} MedQuAD pages, {megabytes:.1f} MB; MB/s of processor time")
    config = CleanConfig.model_validate(
        {
            "personal": {"emails": True, "phones": True, "ids": True},
            "decontaminate": ["mqp", "pubmedqa"],
        }
    )
    for stage in cleaners(config, tally=Tally("c")):
        list(stage(pages[:1]))
        print(f"  {stage.__name__:<26}{megabytes / _seconds(lambda s=stage: list(s(pages))):8.1f}")
    done = [(page, Cleaned(page)) for page in pages]
    for name, chosen in (
        ("survey for copies", {}),
        (
            "survey for test items",
            {"dedup": {"enabled": False}, "decontaminate": ["mqp", "pubmedqa"]},
        ),
    ):
        surveyor = Surveyor.of(
            CleanConfig.model_validate(chosen), corpora=["c"], fraction=0.02, split=False
        )
        taken = _seconds(lambda s=surveyor: [s.survey(page, c, "c") for page, c in done])
        print(f"  {name:<26}{megabytes / taken:8.1f}")
    taken = _seconds(lambda: judge({"c": pages})) - _seconds(
        lambda: [
            Surveyor.of(CleanConfig(), corpora=["c"], fraction=0).survey(p, c, "c") for p, c in done
        ]
    )
    print(f"  {'decision about copies':<26}{megabytes / max(taken, 1e-3):8.1f}")


def _copies(pages: Sequence[Document], number: int) -> None:
    print("\nPlanted copies of MedQuAD pages of 60 words and more, half of them in a second corpus")
    distinct = list({page.id: page for page in pages}.values())
    long_pages = [page for page in distinct if len(words_of(page.turns[0].text)) >= 60]
    chosen = random.Random(0).sample(long_pages, number)
    for threshold, share in ((0.8, 0.0), (0.8, 0.02), (0.65, 0.05)):
        rng = random.Random(share)
        copies = [text(_edited(page.turns[0].text, share, rng)) for page in chosen]
        corpora = {"a": [*distinct, *copies[: number // 2]], "b": copies[number // 2 :]}
        judged = judge(corpora, {"dedup": {"threshold": threshold}})
        above = [(a, b) for a, b in zip(chosen, copies, strict=True) if _jaccard(a, b) >= threshold]
        once = sum(len({a.id, b.id} & judged.ids) <= 1 for a, b in above)
        lonely = [(a, b) for a, b in above if a.id in judged.ids or b.id in judged.ids]
        removed, alone = _partners(judged, [*distinct, *copies], threshold)
        print(
            f"  threshold {threshold}, {100 * share:.0f} % of words edited: {len(above)} of {number} copies at or above "
            f"it; {100 * once / len(above):.2f} % no longer beside their page ({len(above) - len(lonely)} pairs gone "
            f"together, to a third page); {removed} documents removed in all, {alone} without a partner that stays"
        )


def _questions(pages: Sequence[Document], number: int) -> None:
    print("\nPlanted test questions found, of those planted alone and inside a page")
    for task in TASKS:
        rng = random.Random(task)
        found: dict[str, list[bool]] = {}
        planted: list[tuple[str, Document]] = []
        for item in rng.sample(list(read_items(task)), number):
            question = rng.choice(item.questions)
            inside = rng.choice(pages).turns[0].text
            for name, written in _disguises(question).items():
                planted.append((name, text(f"{inside[:400]}\n\n{written}\n\n{inside[400:900]}")))
                if len(words_of(question)) < 13:
                    planted.append((f"short, {name}", planted[-1][1]))
        documents = list({document.id: document for _, document in planted}.values())
        judged = judge({"c": documents}, {"decontaminate": [task], "dedup": {"enabled": False}})
        for name, document in planted:
            found.setdefault(name, []).append(document.id not in judged.ids)
        shown = "; ".join(
            f"{n} {100 * sum(f) / len(f):.1f} % of {len(f)}" for n, f in found.items()
        )
        print(f"  {task}: {shown}")


def _real_contamination(real: Path, pages: Sequence[Document], asked: Sequence[Document]) -> None:
    print("\nReal documents taken for test items")
    config = {"decontaminate": ["mqp", "pubmedqa"], "dedup": {"enabled": False}}
    for name, documents in (("texts", pages), ("conversations", asked)):
        gone = judge({"c": documents}, config).reasons("c")
        print(f"  MedQuAD against MQP and PubMedQA: {len(gone)} of {len(documents):,} {name}")
    files = [real / "general" / f"{n}.json.gz" for n in ("math_instructions", "gsm8k.test")]
    rows, tests = (json.loads(gzip.decompress(file.read_bytes())) for file in files)
    questions = {row["instruction"] for row in tests}
    documents = [conversation(row["instruction"], row["output"] or "-") for row in rows]
    verbatim = {d.id for d in documents if d.turns[0].text in questions}
    judged = judge({"c": documents}, {"decontaminate": ["gsm8k"], "dedup": {"enabled": False}})
    gone = set(judged.reasons("c"))
    print(
        f"  math_instructions against GSM8K: {len(verbatim & gone)} of {len(verbatim)} verbatim questions found, "
        f"{len(gone - verbatim)} other rows of {len(documents):,}"
    )


def _adversarial() -> None:
    print("\nOne megabyte through every stage and the survey, against a megabyte of prose")
    run = linear.everything()
    run(text("warm up"))
    prose = linear.seconds(run, text(linear.prose()))
    print(f"  prose: {prose:.2f} s")
    ratios = {
        name: linear.seconds(run, text(linear.adversarial(name))) / prose
        for name in linear.ADVERSARIAL
    }
    print("  " + "; ".join(f"{name} x{ratio:.2f}" for name, ratio in ratios.items()))


def _partners(judged: Judged, documents: Iterable[Document], threshold: float) -> tuple[int, int]:
    by_id = {document.id: document for document in documents}
    removed = alone = 0
    for corpus in judged.tallies:
        for id_, reason in judged.reasons(corpus).items():
            partner = reason.rpartition(" of ")[2]
            removed += 1
            alone += partner not in judged.ids or _jaccard(by_id[id_], by_id[partner]) < threshold
    return removed, alone


def _jaccard(a: Document, b: Document) -> float:
    return jaccard(*(word_hashes("\n".join(t.text for t in d.turns)) for d in (a, b)))


def _edited(content: str, share: float, rng: random.Random) -> str:
    words = content.split(" ")
    new = [f"zq{rng.randrange(10**6)}" if w.strip() and rng.random() < share else w for w in words]
    return " ".join(new) if share else content.upper().replace(" ", "  ", 20)


def _disguises(question: str) -> dict[str, str]:
    words = question.split()
    return {
        "verbatim": question,
        "re-cased": question.upper(),
        "re-wrapped": "  ".join(words[:4]) + "\t" + "\n   ".join(words[4:]),
        "split over lines": "\n".join(words),
    }


def _seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


if __name__ == "__main__":
    main()
