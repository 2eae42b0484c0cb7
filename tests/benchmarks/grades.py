"""Draws mined pairs for a reader to grade, and adds the grades up.

    python -m data.inspect PREPARED --export pairs.jsonl
    python -m tests.benchmarks.grades draw pairs.jsonl sample.jsonl       (150 pairs, seed 0)
    python -m tests.benchmarks.grades score docs/comprehension_grades.jsonl

Families are drawn in proportion to the square root of their counts, and at least ten of each, so
that rare ones are judged too. Titles and endings are the document's own and are not drawn. A graded
line has `sound` (true or false) and, where it is false, `miss` (what is wrong).
"""

import json
import random
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

NUM_PAIRS = 150
AT_LEAST = 10
SEED = 0
NOT_MINED = ("title", "completion")


def draw(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`NUM_PAIRS` of the pairs, the same for the same pairs in any order."""
    families = defaultdict(list)
    for pair in pairs:
        if pair["family"] not in NOT_MINED:
            families[pair["family"]].append(pair)
    roots = {family: len(items) ** 0.5 for family, items in families.items()}
    left = NUM_PAIRS - sum(min(AT_LEAST, len(items)) for items in families.values())
    extra = {family: int(left * root / sum(roots.values())) for family, root in roots.items()}
    extra[max(roots, key=lambda family: roots[family])] += left - sum(extra.values())
    drawn = []
    for family in sorted(families):
        items = sorted(families[family], key=lambda pair: (pair["document"], pair["number"]))
        count = min(AT_LEAST, len(items)) + extra[family]
        drawn += random.Random(f"{SEED} {family}").sample(items, min(count, len(items)))
    return drawn


def score(graded: list[dict[str, Any]]) -> str:
    """Sound pairs by family and overall, as a Markdown table."""
    total = Counter(pair["family"] for pair in graded)
    sound = Counter(pair["family"] for pair in graded if pair["sound"])
    rows = [
        f"| {name} | {total[name]} | {sound[name]} | {100 * sound[name] / total[name]:.0f} % |"
        for name in sorted(total)
    ]
    whole = f"| all | {len(graded)} | {sound.total()} | {100 * sound.total() / len(graded):.1f} % |"
    return "\n".join(["| family | graded | sound | share |", "|---|---|---|---|", *rows, whole])


def main() -> None:
    """The command line."""
    command, path = sys.argv[1:3]
    rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
    if command == "score":
        print(score(rows))
        return
    lines = [json.dumps(pair, ensure_ascii=False) for pair in draw(rows)]
    Path(sys.argv[3]).write_text("\n".join(lines) + "\n")
    print(f"{sys.argv[3]}: {len(lines)} of {len(rows):,} pairs")


if __name__ == "__main__":
    main()
