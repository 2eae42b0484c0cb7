"""Grades a sample of synthesized pairs: is the answer right, does the question belong to the text, what kind is it.

The judge is a model behind any OpenAI-compatible server, or a person with a sheet. Both give the same
columns, and the same figures come of them: shares with their 95 % intervals, and the kinds of tasks.
Published for the general corpus, 500 pairs, GPT-4: 77.5 % accurate, 92.9 % relevant, 49 kinds.
"""

import csv
import functools
import heapq
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from data.document import Document, Turn, draw
from data.generator import Generate, Prompt, Sampling, ServerConfig
from data.lesson import lesson

WORDING = Path(__file__).with_name("judge.yaml")
PUBLISHED = "published (general corpus, GPT-4): accurate 77.5 %, relevant 92.9 %, 49 kinds"
_YES = {"yes": True, "y": True, "1": True, "true": True, "no": False, "n": False, "0": False, "false": False}  # fmt: skip


@dataclass(frozen=True)
class Grade:
    """A pair and what was said of it; a row of the sheet.

    `accurate`, `relevant`: yes, no, or empty where nothing was said. `kind`: what kind of task it is.
    """

    pair: str
    family: str
    label: str
    text: str
    question: str
    answer: str
    accurate: str = ""
    relevant: str = ""
    kind: str = ""


COLUMNS = [field.name for field in fields(Grade)]


def sample(documents: Iterable[Document], count: int) -> list[Grade]:
    """Pairs of documents, ungraded: the `count` whose draws are lowest, whatever their order."""
    drawn = ((draw(grade.pair, "judge").random(), grade.pair, grade) for grade in _pairs(documents))
    return [grade for _, _, grade in heapq.nsmallest(count, drawn, key=lambda item: item[:2])]


def _pairs(documents: Iterable[Document]) -> Iterator[Grade]:
    for document in documents:
        found = lesson(document)
        records = document.meta.get("tasks") or []
        for number, record in enumerate(records):
            assert found is not None
            question, answer = record["question"], record["answer"]
            if options := record.get("options"):
                question = "\n".join([question, *(f"- {option}" for option in options)])
            if rationale := record.get("rationale"):
                answer = f"{rationale}\n{answer}"
            name = f"{document.id}:{number}"
            yield Grade(name, record["family"], record["label"], found.text, question, answer)


def grade(sampled: Sequence[Grade], generate: Generate) -> list[Grade]:
    """The sampled pairs as a model grades them; a reply that cannot be read leaves its columns empty."""
    by_name = {item.pair: item for item in sampled}
    prompts = (_prompt(item) for item in sampled)
    done = {c.id: _graded(by_name[c.id], c.text) for c in generate(prompts)}
    return [done[item.pair] for item in sampled]


def _prompt(item: Grade) -> Prompt:
    wording = _wording()
    question = wording["question"].format(
        text=item.text,
        question=item.question,
        answer=item.answer,
        kinds=", ".join(wording["kinds"]),
    )
    turns = (Turn("system", wording["system"]), Turn("user", question))
    return Prompt(item.pair, turns, Sampling(max_new_tokens=60))


def _graded(item: Grade, reply: str) -> Grade:
    """What a reply says, wherever in it the three lines stand."""
    said: dict[str, str] = {}
    for line in reply.splitlines():
        match = re.match(r"\W*(?:\d\W+)?(accurate|relevant|kind)\W*[:=]\W*(.+)", line.strip(), re.I)
        if match:
            said.setdefault(match[1].lower(), match[2].strip(" .*`\"'"))
    return replace(
        item,
        accurate=_yes_or_no(said.get("accurate", "")),
        relevant=_yes_or_no(said.get("relevant", "")),
        kind=said.get("kind", ""),
    )


def _yes_or_no(said: str) -> str:
    """The first word, if it is a grade."""
    word = (said.split() or [""])[0].lower().strip(".,;")
    return word if word in _YES else ""


# --- the sheet ------------------------------------------------------------------------------------


def write_sheet(path: str, grades: Sequence[Grade]) -> None:
    """Writes a CSV that a spreadsheet opens; the last three columns are the grader's."""
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows([asdict(item) for item in grades])


def read_sheet(path: str) -> list[Grade]:
    """The sheet as a person has filled it in.

    Raises:
        ValueError: a column is missing, or a grade is neither yes nor no.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = set(COLUMNS) - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"--judge: {path} has no columns {', '.join(sorted(missing))}")
        grades = []
        for number, row in enumerate(reader, 2):
            for name in ("accurate", "relevant"):
                row[name] = (row[name] or "").strip().lower()
                if row[name] and row[name] not in _YES:
                    raise ValueError(
                        f"--judge: {path}, row {number}: {name} is {row[name]!r}; write yes or no"
                    )
            grades.append(Grade(**{name: row[name] or "" for name in COLUMNS}))
    return grades


# --- figures --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Share:
    """How many of how many, with the 95 % interval of the share (Wilson)."""

    yes: int
    total: int

    @property
    def interval(self) -> tuple[float, float]:
        """Ends of the interval; (0, 1) where nothing was graded."""
        if not self.total:
            return 0.0, 1.0
        z = 1.959964
        p, n = self.yes / self.total, self.total
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)

    def __str__(self) -> str:
        low, high = (100 * end for end in self.interval)
        share = 100 * self.yes / self.total if self.total else math.nan
        return f"{share:5.1f} %  ({self.yes} of {self.total}; 95 %: {low:.1f} to {high:.1f})"


def share(grades: Iterable[Grade], name: str) -> Share:
    """The share of `yes` in a column, of the pairs that have a grade there."""
    said = [_YES[value] for item in grades if (value := getattr(item, name))]
    return Share(sum(said), len(said))


def kinds(grades: Iterable[Grade]) -> Counter[str]:
    """Kinds of tasks, spelling aside."""
    return Counter(" ".join(item.kind.casefold().split()) for item in grades if item.kind.strip())


def report(grades: Sequence[Grade]) -> str:
    """The figures as a person reads them: all pairs, then shape by shape."""
    lines = [f"{len(grades)} pairs"]
    for name in ("accurate", "relevant"):
        lines.append(f"{name:<9} {share(grades, name)}")
    found = kinds(grades)
    lines.append(
        f"kinds     {len(found)}: " + ", ".join(f"{k} {n}" for k, n in found.most_common())
    )
    labels = sorted({(item.family, item.label) for item in grades})
    for family, label in labels if len(labels) > 1 else ():
        some = [item for item in grades if (item.family, item.label) == (family, label)]
        lines.append(f"{family}, {label}:")
        lines += [f"  {name:<9} {share(some, name)}" for name in ("accurate", "relevant")]
    unread = sum(not (item.accurate and item.relevant and item.kind) for item in grades)
    if unread:
        lines.append(f"not or not wholly graded: {unread}")
    return "\n".join([*lines, PUBLISHED])


def judge(documents: Iterable[Document], how: str, count: int) -> str:
    """What `data.inspect --judge HOW` does; gives what it has to say.

    Args:
        documents: of the streams.
        how: a YAML file with the settings of a server (`base_url`, `model`, `api_key_env`, ...): its grades
            are written beside it; or a CSV file: written if it is not there, else read, and its figures told.
        count: pairs to sample.

    Raises:
        ValueError: there are no pairs, a file is not as it must be, or the server refuses.
    """
    if how.endswith(".csv") and Path(how).exists():
        grades = read_sheet(how)
        if not any(item.accurate or item.relevant or item.kind for item in grades):
            raise ValueError(f"--judge: {how} has no grades yet; fill in its last three columns")
        return report(grades)
    if not how.endswith((".csv", ".yaml", ".yml")):
        raise ValueError(f"--judge: {how} is neither a .csv nor a .yaml file; name one of them")
    sampled = sample(documents, count)
    if not sampled:
        raise ValueError("--judge: no document has pairs; they come from convert: synthesis")
    if how.endswith(".csv"):
        write_sheet(how, sampled)
        return (
            f"{how}: {len(sampled)} pairs to grade (yes or no, yes or no, a kind); run again then"
        )
    from data.server import Server

    config = _server(how)
    place = Path(how).with_suffix("")
    server = Server(config, journal=str(place))
    grades = grade(sampled, server.generate)
    write_sheet(f"{place}.grades.csv", grades)
    return f"{report(grades)}\n{config.model}: {server.usage}\n{place}.grades.csv: every grade"


def _server(path: str) -> ServerConfig:
    try:
        record: Any = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"--judge: {path} cannot be read: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"--judge: {path} is no list of settings; write base_url: and model:")
    return ServerConfig.model_validate({"endpoint": "chat"} | record)


@functools.cache
def _wording() -> dict[str, Any]:
    return yaml.safe_load(WORDING.read_text(encoding="utf-8"))
