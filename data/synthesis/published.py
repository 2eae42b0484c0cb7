"""Reads what Instruction Pre-Training published: `python -m data.synthesis.published FOLDER --out FILE`.

* **Instruction-augmented corpora**: `part-*/shard/*.txt` (or `.jsonl`), a text in JSON per line, and per part a
  manifest `json/train.json` whose rows name shards (`source`), a language (`source_lang`) and a `weight`:
  how often a text is drawn from that row's shards. `FILE` becomes a preparation recipe with a corpus for each
  language and weight, and, as a comment, the streams of a training recipe with their weights in tokens.
* **The tuning collection**: `<data set>/shard/*.jsonl` of rows `{context, QA_list, QA_type, rc_name}`. `FILE`
  becomes one JSON Lines file with at most so many contexts of each data set, those with most pairs, for
  `convert: tuning`.

Which of the two a folder is shows in its rows.
"""

import argparse
import hashlib
import heapq
import itertools
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data import rows as rows_lib
from data.compression import open_file

MOST_CONTEXTS = 10_000  # of a data set, as published
MEASURED = 200  # texts whose bytes are taken for those of all


@dataclass(frozen=True)
class Source:
    """A row of a manifest.

    Attributes:
        files: its shards, found on disk.
        language: `source_lang`, as it says.
        weight: how often a text is drawn from it, against the other rows of all parts.
    """

    files: tuple[Path, ...]
    language: str
    weight: float


def read_manifests(folder: str | Path, split: str = "train") -> list[Source]:
    """The sources of all parts; without any manifest one source of all shards, of weight 1.

    Raises:
        ValueError: a manifest is not as it must be, or names a shard that is not there.
    """
    root = Path(folder)
    manifests = sorted({*root.glob(f"**/json/{split}.json"), *root.glob(f"part-*/{split}.json")})
    sources = []
    # A manifest at the top lists the shards of all parts once more.
    inner = [path for path in manifests if any(p.startswith("part-") for p in path.parts)]
    for path in inner or manifests:
        try:
            records = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is no JSON: {error}") from error
        for number, record in enumerate(records if isinstance(records, list) else [records]):
            sources.append(_source(path, number, record))
    if sources:
        return sources
    shards = sorted(p for p in root.glob("**/shard/*") if p.suffix in (".txt", ".jsonl"))
    if not shards:
        raise ValueError(
            f"{root} has no part-*/shard/*.txt (or .jsonl); name the folder of the parts"
        )
    return [Source(tuple(shards), "", 1.0)]


def _source(path: Path, number: int, record: Any) -> Source:
    where = f"{path}, row {number}"
    if not isinstance(record, dict) or "source" not in record:
        raise ValueError(f"{where}: {str(record)[:80]} has no `source`")
    named = record["source"]
    part = path.parent.parent if path.parent.name == "json" else path.parent
    files = [_find(part, name, where) for name in ([named] if isinstance(named, str) else named)]
    try:
        weight = float(record.get("weight", 1.0))
    except (TypeError, ValueError):
        weight = -1.0
    if not weight >= 0:
        raise ValueError(
            f"{where}: weight is {record.get('weight')!r}; it must be a number, 0 or more"
        )
    return Source(tuple(files), str(record.get("source_lang", "")), weight)


def _find(part: Path, name: str, where: str) -> Path:
    """A shard by the path that a manifest gives it, which may begin at a place of its authors."""
    for place in (part / name, part.parent / name, part / "shard" / Path(name).name):
        if place.is_file():
            return place
    raise ValueError(
        f"{where}: source {name} is not in {part}; download all of the part's shard folder"
    )


def read_texts(source: Source) -> Iterator[str]:
    """The texts of a source's shards, in their order.

    Raises:
        ValueError: a line is no JSON of a text (a string, or an object with `text`).
    """
    for path in source.files:
        with open_file(str(path)) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _text(line, f"{path}:{number}")


def _text(line: bytes, place: str) -> str:
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{place}: no JSON: {error}") from error
    text = record.get("text") if isinstance(record, dict) else record
    if not isinstance(text, str):
        raise ValueError(f"{place}: no text, nor an object with `text`: {str(record)[:80]}")
    return text


def preparation(folder: str | Path, tokenizer: str, out_dir: str) -> str:
    """A preparation recipe of the corpora in YAML, and their streams as a comment."""
    import yaml

    groups: dict[tuple[str, float], list[Source]] = defaultdict(list)
    for source in read_manifests(folder):
        groups[source.language, source.weight].append(source)
    corpora, streams = {}, {}
    for number, ((language, weight), sources) in enumerate(sorted(groups.items())):
        name = "_".join(
            filter(None, ["augmented", language if language.isidentifier() else "", str(number)])
        )
        files = [str(path) for source in sources for path in source.files]
        corpora[name] = {
            "path": files,
            "format": "jsonl",
            "fields": {"text": "text"},
            "convert": "raw",
        }
        # A weight counts texts, ours tokens: longer texts weigh more.
        some = [len(t.encode()) for t in itertools.islice(read_texts(sources[0]), MEASURED)]
        size = sum(some) / max(len(some), 1)
        streams[name] = {"path": f"{out_dir}/{name}", "weight": len(sources) * weight * size}
    total = sum(stream["weight"] for stream in streams.values()) or 1.0
    for stream in streams.values():
        stream["weight"] = round(stream["weight"] / total, 6)
    # They were cleaned before their pairs were made; what differs in its pairs alone is no duplicate.
    recipe = {"out_dir": out_dir, "tokenizer": tokenizer, "clean": None, "corpora": corpora}
    comment = yaml.safe_dump({"streams": streams}, sort_keys=False)
    lines = ["# Instruction-augmented corpora as published. For the training recipe:", "#"]
    lines += [f"#   {line}" for line in comment.splitlines()]
    return "\n".join([*lines, "", yaml.safe_dump(recipe, sort_keys=False)])


def read_tuning(folder: str | Path, most: int = MOST_CONTEXTS) -> Iterator[dict[str, Any]]:
    """Rows of the tuning collection, at most `most` of each data set: those with most pairs.

    Of contexts with equally many the choice hashes the context, so the order of shards does not show.

    Raises:
        ValueError: a row lacks `context` or `QA_list`, or there are none.
    """
    best: dict[str, list[tuple[int, str, str]]] = defaultdict(list)
    for path in sorted(Path(folder).glob("**/*.jsonl")):
        with open_file(str(path)) as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                row = _row(line, f"{path}:{number}")
                written = rows_lib.to_json(row)
                lot = hashlib.blake2b(written.encode(), digest_size=8).hexdigest()
                held = best[str(row.get("rc_name") or path.parent.parent.name)]
                entry = (len(row["QA_list"]), lot, written)
                (heapq.heappush if len(held) < most else heapq.heappushpop)(held, entry)
    if not best:
        raise ValueError(f"{folder} has no .jsonl of rows with context and QA_list")
    for name in sorted(best):
        for _, _, written in sorted(best[name], reverse=True):
            yield json.loads(written) | {"rc_name": name}


def _row(line: bytes, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{place}: no JSON: {error}") from error
    if (
        not isinstance(row, dict)
        or not isinstance(row.get("QA_list"), list)
        or "context" not in row
    ):
        raise ValueError(
            f"{place}: no row of the tuning collection (context, QA_list): {str(row)[:80]}"
        )
    return row


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    from configs.load import user_errors

    parser = argparse.ArgumentParser("python -m data.synthesis.published", description=__doc__)
    parser.add_argument("FOLDER", help="a downloaded data set")
    parser.add_argument(
        "--out", required=True, metavar="FILE", help=".yml (corpora) or .jsonl (tuning)"
    )
    parser.add_argument("--tokenizer", default="tokenizer", help="of the recipe (corpora)")
    parser.add_argument("--out_dir", default="prepared/augmented", help="of the recipe (corpora)")
    parser.add_argument(
        "--most",
        type=int,
        default=MOST_CONTEXTS,
        metavar="N",
        help="contexts of a data set (tuning)",
    )
    options = parser.parse_args(sys.argv[1:] if argv is None else argv)
    with user_errors():
        if not options.out.endswith((".yaml", ".yml", ".jsonl")):
            raise ValueError(f"--out: {options.out} is neither .yml (corpora) nor .jsonl (tuning)")
        with rows_lib.whole_file(options.out) as local, open(local, "w", encoding="utf-8") as file:
            if not options.out.endswith(".jsonl"):
                file.write(preparation(options.FOLDER, options.tokenizer, options.out_dir))
                return
            count = pairs = 0
            for row in read_tuning(options.FOLDER, options.most):
                file.write(rows_lib.to_json(row) + "\n")
                count, pairs = count + 1, pairs + len(row["QA_list"])
        print(f"{options.out}: {count:,} contexts with {pairs:,} pairs")


if __name__ == "__main__":
    main()
