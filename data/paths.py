"""A value of a row by its dotted path: keys of objects, numbers of list entries.

A key asked of a list is asked of each of its entries.
"""

from collections.abc import Mapping, Sequence
from typing import Any


class Missing(Exception):
    """`key` is not among the `known` keys of `where` ('' is the row itself)."""

    def __init__(self, key: str, where: str, known: list[str]):
        super().__init__(key)
        self.key, self.where, self.known = key, where, known


def reach(value: Any, path: str) -> Any:
    """What lies at a path; None where a value on the way is null.

    Raises:
        Missing: a key on the way is not there.
    """
    if isinstance(value, Mapping) and path in value:  # a key may itself hold a dot
        return value[path]
    where = ""
    keys = path.split(".")
    for i, key in enumerate(keys):
        value = plain(value)
        if value is None:
            return None
        if isinstance(value, Mapping):
            if key not in value:
                raise Missing(key, where, [str(known) for known in value])
            value = value[key]
        elif isinstance(value, Sequence) and not isinstance(value, str):
            if key.isdigit():
                value = value[int(key)] if int(key) < len(value) else None
            else:
                return [reach(entry, ".".join(keys[i:])) for entry in value]
        else:
            raise Missing(key, where, [])
        where = f"{where}.{key}" if where else key
    return value


def plain(value: Any) -> Any:
    """Python's own types for what NumPy and TFDS give."""
    if isinstance(value, bytes):
        return value.decode(errors="surrogateescape")
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return value


def entries(value: Any) -> Any:
    """A list of objects, for what a table makes of one: an object of lists of one length."""
    value = plain(value)
    if isinstance(value, Mapping) and value:
        columns = [plain(column) for column in value.values()]
        lists = [c for c in columns if isinstance(c, Sequence) and not isinstance(c, str)]
        if len(lists) == len(columns) and len(set(map(len, lists))) == 1:
            return [dict(zip(value, row, strict=True)) for row in zip(*lists, strict=True)]
    return value
