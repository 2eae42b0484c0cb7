"""What pydantic says about a recipe, in words for the person who wrote it."""

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from configs.fields import class_at, walk
from configs.parse import Keys, dotted


def complaints(
    cls: type[BaseModel], data: Any, error: ValidationError
) -> Iterator[tuple[Keys, str]]:
    """Yields the path and the message of every mistake.

    Args:
        cls: the recipe's class.
        data: what was validated.
        error: what came of it.
    """
    found: dict[Keys, list[str]] = {}
    for item in error.errors(include_url=False):
        path = _data_path(data, item["loc"], item["type"])
        name, value, context = dotted(path), item["input"], item.get("ctx", {})
        match item["type"]:
            case "extra_forbidden":
                text = f"{name}: unknown; {_known_fields(cls, path)}"
            case "missing":
                text = f"{name}: missing"
            case "value_error":
                for line in str(context["error"]).split("\n"):
                    yield _refine(path, line), f"{name}.{line}" if name else line
                continue
            case "literal_error":
                expected = context["expected"]
                options = re.findall(r"'([^']*)'", expected)
                near = near_miss(str(value), options)
                text = f"{name}: {value!r} is not {' | '.join(options)}" + (near and f"; {near}")
            case "model_type" | "model_attributes_type" | "dict_type":
                text = f"{name}: should be a mapping of fields, not {value!r}"
            case _:
                message = item["msg"].replace("Input should", "should").replace("String", "text")
                message = re.sub(r"a valid (?=[aeiou])", "an ", message).replace("a valid ", "a ")
                text = f"{name}: {message[0].lower()}{message[1:]}, not {value!r}"
        found.setdefault(path, []).append(text)
    for path, texts in found.items():
        deeper = any(other[: len(path)] == path and other != path for other in found)
        if deeper and path:
            continue  # of the kinds that a field may have, the one that went deeper is meant
        first, *others = dict.fromkeys(texts)
        prefix = f"{dotted(path)}: "
        yield path, " or ".join([first, *(other.removeprefix(prefix) for other in others)])


def _data_path(data: Any, loc: tuple[int | str, ...], kind: str) -> Keys:
    """Pydantic's location without the names of union members, which are not in the recipe."""
    path: list[str | int] = []
    for i, key in enumerate(loc):
        last = i == len(loc) - 1
        entries: Any = dict(enumerate(data)) if isinstance(data, list) else data
        if isinstance(entries, dict) and key in entries:
            data = entries[key]
        elif not (last and kind == "missing"):
            continue
        path.append(key)
    return tuple(path)


def _refine(path: Keys, message: str) -> Keys:
    """The path of the field that a message begins with."""
    match = re.match(r"[A-Za-z0-9_.-]+(?=:)", message)
    return (*path, *match[0].split(".")) if match else path


def _known_fields(cls: type[BaseModel], path: Keys) -> str:
    owner = class_at(cls, path[:-1])
    key = str(path[-1])
    names = list(owner.model_fields) if owner else []
    if near := near_miss(key, names):
        return near
    elsewhere = [".".join(f.path) for f in walk(cls) if f.path[-1] == key]
    if elsewhere:
        return f"did you mean {' or '.join(elsewhere)}?"
    return f"there are {', '.join(names)}"


def near_miss(name: str, names: Sequence[str]) -> str:
    """The nearest name as a question; two when they are about as near."""
    close = difflib.get_close_matches(name, names, n=2, cutoff=0.6)
    scores = [difflib.SequenceMatcher(None, name, other).ratio() for other in close]
    if len(close) == 2 and scores[0] - scores[1] > 0.1:
        close.pop()
    return f"did you mean {' or '.join(close)}?" if close else ""
