"""Items of the general tasks, from the real text on this machine, as data sets for lm-eval."""

from typing import Any


def _dataset(task: str) -> Any:
    import datasets

    from data.benchmarks import read_items

    items = read_items(task)
    rows = [
        {
            "question": item.question,
            "options": list(item.options),
            "gold": item.gold[0] if item.gold else -1,
            "answer": item.answers[0],
        }
        for item in items
    ]
    return {"test": datasets.Dataset.from_list(rows)}


def arc_challenge(**_: Any) -> Any:
    return _dataset("arc_challenge")


def arc_easy(**_: Any) -> Any:
    return _dataset("arc_easy")


def boolq(**_: Any) -> Any:
    return _dataset("boolq")


def piqa(**_: Any) -> Any:
    return _dataset("piqa")


def winogrande(**_: Any) -> Any:
    return _dataset("winogrande")


def gsm8k(**_: Any) -> Any:
    return _dataset("gsm8k")


def after_blank(doc: dict[str, Any]) -> str:
    """What follows the blank: WinoGrande scores the same end behind either name."""
    return doc["question"].split("_", 1)[1].strip()


def up_to_blank(doc: dict[str, Any]) -> list[str]:
    """The sentence up to the blank, filled in with either name."""
    return [doc["question"].split("_", 1)[0] + option for option in doc["options"]]


def gold(doc: dict[str, Any]) -> int:
    return doc["gold"]
