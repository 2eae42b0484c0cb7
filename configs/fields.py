"""The tree of a recipe's fields: how `--help` prints it, and which field lies at a path."""

import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from configs.parse import Keys

NAME = "<name>"  # stands for the name of a stream or a corpus in a path


@dataclass(frozen=True)
class RecipeField:
    """One field of the tree. `path` has `<name>` where the user chooses a name."""

    path: tuple[str, ...]
    kind: str
    default: str
    meaning: str
    nested: bool


def walk(cls: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[RecipeField]:
    """Yields every field of a recipe class, parents before children."""
    for name, info in cls.model_fields.items():
        inner, named = _inner(info.annotation)
        here = (*path, name)
        meaning = info.description or (_first_line(inner) if inner else "")
        kind = ("one for each name" if named else "") if inner else type_text(info)
        yield RecipeField(here, kind, _default(info), meaning, inner is not None)
        if inner and named:
            here = (*here, NAME)
            yield RecipeField(here, "", "", _first_line(inner), True)
        if inner:
            yield from walk(inner, here)


def class_at(cls: type[BaseModel], path: Keys) -> type[BaseModel] | None:
    """The class whose fields lie under a path, or None where there is none."""
    current: type[BaseModel] | None = cls
    expects_name = False
    for key in path:
        if expects_name:
            expects_name = False
        elif current is None or key not in current.model_fields:
            return None
        else:
            current, expects_name = _inner(current.model_fields[str(key)].annotation)
    return None if expects_name else current


def is_named(cls: type[BaseModel], path: Keys) -> bool:
    """Whether a path is a collection with names of the user's choosing, as `streams`."""
    if not path:
        return False
    owner = class_at(cls, path[:-1])
    if owner is None or path[-1] not in owner.model_fields:
        return False
    return _inner(owner.model_fields[str(path[-1])].annotation)[1]


def help_tree(cls: type[BaseModel], width: int = 100) -> str:
    """The fields as they would stand in a recipe, with the defaults, then type and meaning."""
    rows = []
    for field in walk(cls):
        indent = "  " * (len(field.path) - 1)
        value = f" {field.default}" if field.default else ""
        right = "; ".join(part for part in (field.kind, field.meaning) if part)
        rows.append((f"{indent}{field.path[-1]}:{value}", right))
    left_width = min(36, max(len(left) for left, _ in rows) + 2)
    lines = []
    for left, right in rows:
        wrapped = textwrap.wrap(right, max(30, width - left_width)) or [""]
        if len(left) >= left_width:
            lines.append(left)
            left = ""
        lines.append(f"{left:<{left_width}}{wrapped[0]}".rstrip())
        lines.extend(" " * left_width + line for line in wrapped[1:])
    return "\n".join(lines)


def type_text(info: FieldInfo) -> str:
    """A field's type and bounds for a reader: `number > 0`, `cosine | wsd | constant`."""
    return _type_text(info.annotation, info.metadata)


def _type_text(annotation: Any, metadata: list[Any]) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_text(args[0], [*_flat(args[1:]), *metadata])
    if origin in (Union, types.UnionType):
        parts = [_type_text(a, metadata) for a in args if a is not type(None)]
        return " | ".join(dict.fromkeys(parts))
    if origin is Literal:
        return " | ".join(str(a) for a in args)
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            return f"list of {_type_text(args[0], [])}"
        return "[" + ", ".join(_type_text(a, []) for a in args) + "]"
    name = {int: "integer", float: "number", str: "text", bool: "true | false"}.get(annotation)
    bounds = [_bound(item) for item in metadata] if annotation in (int, float) else []
    return " ".join([name or str(annotation), " and ".join(filter(None, bounds))]).rstrip()


def _bound(item: Any) -> str:
    match item:
        case annotated_types.Gt():
            return f"> {item.gt:g}"
        case annotated_types.Ge():
            return f">= {item.ge:g}"
        case annotated_types.Lt():
            return f"< {item.lt:g}"
        case annotated_types.Le():
            return f"<= {item.le:g}"
    return ""


def _flat(metadata: tuple[Any, ...]) -> Iterator[Any]:
    for item in metadata:
        yield from item.metadata if isinstance(item, FieldInfo) else (item,)


def _inner(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The recipe class that a field holds, and whether it holds one for each name."""
    origin, args = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    if origin is dict:
        return _inner(args[1])[0], True
    if origin is Annotated:
        return _inner(args[0])
    if origin in (Union, types.UnionType):
        for arg in args:
            if _inner(arg)[0]:
                return _inner(arg)
    return None, False


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "" if _inner(info.annotation)[0] else "(required)"
    value = info.get_default(call_default_factory=True)
    if isinstance(value, BaseModel) or value == {}:
        return ""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    return "[" + ", ".join(map(str, value)) + "]" if isinstance(value, tuple) else str(value)


def _first_line(cls: type[BaseModel]) -> str:
    return (cls.__doc__ or "").strip().split("\n")[0].rstrip(".")
