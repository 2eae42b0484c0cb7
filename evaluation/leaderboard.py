"""Results of lm-evaluation-harness as a leaderboard's table and a model card's `model-index`.

RESULTS is a results file of lm-eval, or a folder that holds some (the newest is taken). Of the group
`open_llm_leaderboard` it shows the six figures that the leaderboard counted and their mean; of other
tasks every metric. With --card they are written into the front matter of the README.md of a model's
folder, in place of what stood there.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from etils import epath

BOARD = Path(__file__).with_suffix(".yaml")
_URL = "https://github.com/EleutherAI/lm-evaluation-harness"
_NO_METRIC = ("alias", "name", "sample_len", "sample_count")


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        task: lm-eval's name.
        title: for people.
        dataset: name, type, config, split as the Hub's cards call them.
        shots: examples in a prompt.
        metric: lm-eval's name of the metric.
        metric_name: for people.
        value: as lm-eval gives it.
        scale: 100 for shares, which are shown in percent, else 1.
        stderr: of the value, where lm-eval gives one.
        items: that were scored.
        limited: whether these are a part of the task.
        counted: whether the row is one of the leaderboard's.
    """

    task: str
    title: str
    dataset: Mapping[str, str]
    shots: int
    metric: str
    metric_name: str
    value: float
    scale: int
    stderr: float | None
    items: int
    limited: bool
    counted: bool


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    from configs.load import user_errors

    parser = argparse.ArgumentParser(
        prog="python -m evaluation.leaderboard",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", metavar="RESULTS", help="a results file of lm-eval, or a folder")
    parser.add_argument("--card", metavar="FOLDER", help="write the figures into its README.md")
    options = parser.parse_args(argv)
    with user_errors():
        results = read_results(options.results)
        rows = rows_of(results)
        print(table(rows))
        if options.card:
            write_card(options.card, rows, results)
            print(f"{options.card}/README.md: model-index with {len(rows)} figures")
    return 0


def read_results(place: str) -> dict[str, Any]:
    """A results file of lm-eval, or the newest of a folder.

    Raises:
        ValueError: there is none.
    """
    path = Path(place)
    if path.is_dir():
        found = sorted(path.rglob("results_*.json"), key=lambda file: file.stat().st_mtime)
        if not found:
            raise ValueError(
                f"RESULTS: {place} holds no results_*.json; run lm-eval with --output_path {place}"
            )
        path = found[-1]
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"RESULTS: {path} cannot be read: {error}") from error
    if not isinstance(results, dict) or not isinstance(results.get("results"), dict):
        raise ValueError(f"RESULTS: {path} is no results file of lm-eval: it has no `results`")
    return results


def rows_of(results: Mapping[str, Any]) -> list[Row]:
    """The figures in lm-eval's results: the leaderboard's first, then every metric of other tasks.

    Raises:
        ValueError: a task of the leaderboard was run otherwise than the leaderboard did, while the
            group was asked for.
    """
    board = yaml.safe_load(BOARD.read_text(encoding="utf-8"))
    whole = board["group"] in results.get("group_subtasks", {})
    rows, used = [], set[str]()
    for spec in board["rows"]:
        leaves = _leaves(spec["task"], results)
        row = _board_row(spec, leaves, results)
        if row is not None:
            rows.append(row)
            used |= {spec["task"], *leaves, *_groups_within(spec["task"], results)}
        elif whole:
            raise ValueError(
                f"RESULTS: {spec['task']} was not run as {board['group']} runs it: {spec['shots']} "
                f"examples, {spec['metric']} ({spec['filter']})"
                + (f", all of {spec['subjects']} subjects" if "subjects" in spec else "")
            )
    for task in results["results"]:
        if task not in used and task not in results.get("group_subtasks", {}):
            rows += _plain_rows(task, results)
    return rows


def mean(rows: Sequence[Row]) -> float | None:
    """The leaderboard's mean; None unless all of its figures are there."""
    counted = [row.value for row in rows if row.counted]
    wanted = len(yaml.safe_load(BOARD.read_text(encoding="utf-8"))["rows"])
    return sum(counted) / wanted if len(counted) == wanted else None


def table(rows: Sequence[Row]) -> str:
    """The figures as Markdown, shares in percent, with lm-eval's standard errors."""
    lines = ["| task | shots | metric | value | ± | items |", "|---|---|---|---|---|---|"]
    for row in rows:
        error = "" if row.stderr is None else f"{row.scale * row.stderr:.2f}"
        items = f"{row.items:,}" + (" (a part)" if row.limited else "")
        lines.append(
            f"| {row.title} | {row.shots} | {row.metric_name} | {row.scale * row.value:.2f} | {error} "
            f"| {items} |"
        )
    average = mean(rows)
    if average is not None:
        lines.append(f"| **mean of the leaderboard's** | | | **{100 * average:.2f}** | | |")
    return "\n".join(lines)


def model_index(name: str, rows: Sequence[Row], source: str) -> list[dict[str, Any]]:
    """The figures in the shape of the Hub's `model-index`, shares in percent.

    Args:
        name: the model's.
        rows: the figures.
        source: what they were measured with.
    """
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for row in rows:
        entry = found.setdefault(
            (row.task, row.shots),
            {
                "task": {"type": "text-generation", "name": "Text Generation"},
                "dataset": {**row.dataset, "args": {"num_few_shot": row.shots}},
                "metrics": [],
                "source": {"name": source, "url": _URL},
            },
        )
        entry["metrics"].append(
            {"type": row.metric, "name": row.metric_name, "value": round(row.scale * row.value, 2)}
        )
    average = mean(rows)
    if average is not None:
        board = yaml.safe_load(BOARD.read_text(encoding="utf-8"))["name"]
        found["", 0] = {
            "task": {"type": "text-generation", "name": "Text Generation"},
            "dataset": {"name": board, "type": "open-llm-leaderboard"},
            "metrics": [{"type": "mean", "name": "mean", "value": round(100 * average, 2)}],
            "source": {"name": source, "url": _URL},
        }
    return [{"name": name, "results": list(found.values())}]


def write_card(folder: str, rows: Sequence[Row], results: Mapping[str, Any]) -> None:
    """Puts the figures into the front matter of a folder's README.md; the rest stays as it is.

    Raises:
        ValueError: there is no card, or the figures are of a part of the items.
    """
    limited = sorted({row.task for row in rows if row.limited})
    if limited:
        raise ValueError(
            f"--card: {', '.join(limited)}: only a part of the items was scored; run without --limit"
        )
    if not rows:
        raise ValueError("--card: the results hold no figures")
    path = epath.Path(folder) / "README.md"
    if not path.exists():
        raise ValueError(f"--card: {path} is not there; name the folder of an exported model")
    text = path.read_text()
    if not text.startswith("---\n") or "\n---" not in text[4:]:
        raise ValueError(f"--card: {path} does not begin with front matter between lines of ---")
    front, rest = text[4:].split("\n---", 1)
    title = next(
        (line[2:] for line in rest.splitlines() if line.startswith("# ")), path.parent.name
    )
    source = f"lm-evaluation-harness {results.get('lm_eval_version', '')}".strip()
    index = yaml.safe_dump(
        {"model-index": model_index(title, rows, source)}, sort_keys=False, allow_unicode=True
    )
    kept = _without(front, "model-index")
    path.write_text(f"---\n{kept}\n{index}---{rest}")


def _without(front: str, key: str) -> str:
    """Front matter without one key; comments and the order of the others stay."""
    kept, inside = [], False
    for line in front.splitlines():
        if not line.startswith((" ", "-", "#")) and line.strip():
            inside = line.split(":")[0] == key
        if not inside:
            kept.append(line)
    return "\n".join(kept)


def _board_row(
    spec: Mapping[str, Any], leaves: Sequence[str], results: Mapping[str, Any]
) -> Row | None:
    """A figure of the leaderboard; None where the results do not have it as the leaderboard took it."""
    key = f"{spec['metric']},{spec['filter']}"
    values = [results["results"].get(leaf, {}).get(key) for leaf in leaves]
    shots = {results.get("n-shot", {}).get(leaf) for leaf in leaves}
    if not values or None in values or shots != {spec["shots"]}:
        return None
    if "subjects" in spec and len(values) != spec["subjects"]:
        return None
    errors = [results["results"][leaf].get(_stderr(key)) for leaf in leaves]
    known = all(isinstance(error, float) for error in errors)
    items, limited = _items(leaves, results)
    return Row(
        task=spec["task"],
        title=spec["title"],
        dataset=spec["dataset"],
        shots=spec["shots"],
        metric=spec["metric"],
        metric_name=spec["metric_name"],
        value=sum(values) / len(values),
        scale=100,
        stderr=sum(e**2 for e in errors) ** 0.5 / len(errors) if known else None,
        items=items,
        limited=limited,
        counted=True,
    )


def _plain_rows(task: str, results: Mapping[str, Any]) -> list[Row]:
    """Every metric of a task that the leaderboard does not have."""
    config = results.get("configs", {}).get(task, {})
    items, limited = _items([task], results)
    dataset = {"name": task, "type": config.get("dataset_path") or task}
    if config.get("dataset_name"):
        dataset["config"] = config["dataset_name"]
    if split := config.get("test_split") or config.get("validation_split"):
        dataset["split"] = split
    shares = yaml.safe_load(BOARD.read_text(encoding="utf-8"))["shares"]
    rows = []
    for key, value in results["results"][task].items():
        metric, _, filter_ = key.partition(",")
        if key in _NO_METRIC or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = results["results"][task].get(_stderr(key))
        rows.append(
            Row(
                task=task,
                title=task,
                dataset=dataset,
                shots=results.get("n-shot", {}).get(task, 0),
                metric=metric,
                metric_name=metric if filter_ == "none" else f"{metric} ({filter_})",
                value=float(value),
                scale=100 if metric in shares else 1,
                stderr=error if isinstance(error, float) else None,
                items=items,
                limited=limited,
                counted=False,
            )
        )
    return rows


def _stderr(key: str) -> str:
    metric, _, filter_ = key.partition(",")
    return f"{metric}_stderr,{filter_}"


def _leaves(task: str, results: Mapping[str, Any]) -> list[str]:
    """The tasks below a group; a task itself."""
    below = results.get("group_subtasks", {}).get(task)
    return [leaf for name in below for leaf in _leaves(name, results)] if below else [task]


def _groups_within(task: str, results: Mapping[str, Any]) -> set[str]:
    below = results.get("group_subtasks", {}).get(task, [])
    return {task, *(g for name in below for g in _groups_within(name, results))} if below else set()


def _items(leaves: Sequence[str], results: Mapping[str, Any]) -> tuple[int, bool]:
    counts = [results.get("n-samples", {}).get(leaf, {}) for leaf in leaves]
    scored = sum(count.get("effective", 0) for count in counts)
    return scored, any(count.get("effective") != count.get("original") for count in counts)


if __name__ == "__main__":
    sys.exit(main())
