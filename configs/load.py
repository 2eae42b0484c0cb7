"""Reads recipes, and the command line that every entry point has: `COMMAND RECIPE [key.path=value ...]`.

Loading is strict: a key that does not exist, a value of the wrong type and a name given twice are errors that say
the full path, the file and the line. Paths inside a recipe are relative to the working directory.
"""

import difflib
import json
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from etils import epath
from pydantic import BaseModel, ValidationError

from configs.complaints import complaints, near_miss
from configs.fields import help_tree, is_named
from configs.parse import Keys, Parsed, RecipeError, dotted, dump_yaml, expand, parse_yaml

__all__ = [
    "Flag",
    "Options",
    "RecipeError",
    "command",
    "load_recipe",
    "recipe_yaml",
    "user_errors",
]

Recipe = TypeVar("Recipe", bound=BaseModel)

COMMAND_LINE = "command line"
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Flag:
    """A further `--name` of a command. With a `value` name it takes one, else it is a switch."""

    name: str
    meaning: str
    value: str | None = None


@dataclass(frozen=True)
class Options:
    """What the command line says besides the recipe. `flags` has a text, True, or nothing for each Flag."""

    recipe_path: str | None
    dry_run: bool
    arguments: tuple[str, ...] = ()
    flags: dict[str, Any] = field(default_factory=dict)


def command(
    cls: type[Recipe],
    argv: Sequence[str],
    doc: str,
    *,
    flags: Sequence[Flag] = (),
    arguments: Sequence[str] = (),
) -> tuple[Recipe, Options]:
    """Reads the command line of an entry point and gives its recipe.

    `--help` and `--schema` print and leave with status 0. What is wrong with the command line or the recipe is
    printed as one message, and the status is 1.

    Args:
        cls: the recipe's class.
        argv: the command line without the program's name.
        doc: what the command does; its usage is made from the arguments and flags.
        flags: the command's own flags, besides --help, --schema and --dry-run.
        arguments: names of positional arguments that come before the recipe.
    """
    try:
        return _command(cls, list(argv), doc, flags, arguments)
    except RecipeError as error:
        _fail(error)


def load_recipe(cls: type[Recipe], path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe from YAML, with overrides `key.path=value` whose values are YAML too.

    Raises:
        RecipeError: everything that is wrong, one line each, with file, line and path.
    """
    parsed = parse_yaml(_read(path), path)
    data = {} if parsed.value is None else parsed.value
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of keys to values")
    data, given = _override(cls, data, overrides)
    problems = list(_bad_names(cls, data))
    # After the overrides, so that one can stand in for a path whose variable is not set.
    data = _expanded(data, (), problems)
    recipe = None
    try:
        # As JSON: strict types (no "5" for 5), while a list may still become a tuple.
        recipe = cls.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        problems.extend(complaints(cls, data, error))
    if recipe is None or problems:
        raise RecipeError("\n".join(f"{_where(p, path, parsed, given)}: {m}" for p, m in problems))
    return recipe


def recipe_yaml(recipe: BaseModel) -> str:
    """The resolved recipe, every field written out; `load_recipe` reads it back to an equal one."""
    return dump_yaml(recipe.model_dump(mode="json"))


@contextmanager
def user_errors() -> Iterator[None]:
    """Turns what our code says to a user into one message and status 1.

    A ValueError that our own code raises, any failure of the file system, and a package that object storage needs and
    that is not installed are for the user. A ValueError from inside a library is a defect of ours, so it keeps its
    traceback.
    """
    try:
        yield
    except OSError as error:
        named = error.strerror and error.filename
        _fail(f"{error.filename}: {error.strerror}" if named else error)
    except ImportError as error:
        frames = traceback.extract_tb(error.__traceback__)
        if not frames or "fsspec" not in Path(frames[-1].filename).parts:
            raise
        _fail(f"{error}: gs:// paths need pip install -e '.[gcs]', s3:// paths '.[s3]'")
    except ValueError as error:
        frames = traceback.extract_tb(error.__traceback__)
        raised_in = Path(frames[-1].filename).resolve() if frames else ROOT
        ours = raised_in.is_relative_to(ROOT) and "site-packages" not in raised_in.parts
        if not ours:
            raise
        _fail(error)


def _fail(error: BaseException | str) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(1) from None


# --- the command line -------------------------------------------------------------------------------------------


def _command(
    cls: type[Recipe],
    argv: list[str],
    doc: str,
    flags: Sequence[Flag],
    arguments: Sequence[str],
) -> tuple[Recipe, Options]:
    own = {flag.name: flag for flag in flags}
    switches = ["help", "dry-run", "schema"]
    words: list[str] = []
    values: dict[str, Any] = {}
    while argv:
        word = argv.pop(0)
        if not word.startswith("-"):
            words.append(word)
            continue
        name, has_value, value = word.lstrip("-").partition("=")
        name = {"h": "help", "dry_run": "dry-run"}.get(name, name)
        if name in switches or (name in own and own[name].value is None):
            if has_value:
                raise RecipeError(f"--{name}: takes no value, got {value!r}")
            values[name] = True
        elif name in own:
            if not has_value and not argv:
                raise RecipeError(f"--{name}: needs a value: --{name}={own[name].value}")
            values[name] = value if has_value else argv.pop(0)
        else:
            near = near_miss(name, [*switches, *own])
            raise RecipeError(f"--{name}: unknown; " + (near or "see --help"))
    if values.get("help"):
        print(_help(cls, doc, flags, arguments))
        raise SystemExit(0)
    if values.get("schema"):
        print(json.dumps(cls.model_json_schema(), indent=2))
        raise SystemExit(0)
    for name in (*arguments, "RECIPE"):
        if not words or ("=" in words[0] and not epath.Path(words[0]).exists()):
            raise RecipeError(f"{name}: missing\n{_usage(flags, arguments)}{_recipes()}")
        if name != "RECIPE":
            values[f"argument {name}"] = words.pop(0)
    path, overrides = words[0], words[1:]
    recipe = load_recipe(cls, path, overrides)
    given = {name: values.get(name) for name in own}
    positional = tuple(values[f"argument {name}"] for name in arguments)
    return recipe, Options(path, bool(values.get("dry-run")), positional, given)


def _usage(flags: Sequence[Flag], arguments: Sequence[str]) -> str:
    own = "".join(f" [--{f.name}{'=' + f.value if f.value else ''}]" for f in flags)
    before = "".join(f"{name} " for name in arguments)
    return (
        f"usage: COMMAND {before}RECIPE [key.path=value ...] [--help] [--dry-run] [--schema]{own}"
    )


def _help(cls: type[BaseModel], doc: str, flags: Sequence[Flag], arguments: Sequence[str]) -> str:
    listed = [
        ("--dry-run", "print the resolved recipe and what it would cost, and exit"),
        ("--schema", "print the JSON schema of the recipe, for editors, and exit"),
        *((f"--{f.name}{'=' + f.value if f.value else ''}", f.meaning) for f in flags),
    ]
    width = max(len(name) for name, _ in listed) + 2
    return "\n".join(
        [
            doc.strip(),
            "",
            _usage(flags, arguments),
            "",
            *(f"  {name:<{width}}{meaning}" for name, meaning in listed),
            "",
            "The fields of a recipe, with their defaults. Any of them can be set on the command line:",
            "optimizer.peak_lr=2e-5 streams.reading.weight=2 streams.old=null",
            "",
            help_tree(cls),
        ]
    )


# --- reading ----------------------------------------------------------------------------------------------------


def _read(path: str) -> str:
    file = epath.Path(path)
    if file.is_dir():
        raise RecipeError(f"{path}: is a folder, not a recipe{_recipes()}")
    if not file.exists():
        known = [str(p) for p in _known_recipes()]
        by_stem = {Path(p).stem: p for p in known}
        near = difflib.get_close_matches(Path(path).stem, by_stem, n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(by_stem[n] for n in near)}?" if near else _recipes()
        raise RecipeError(f"{path}: no such recipe{hint}")
    try:
        return file.read_text()
    except UnicodeDecodeError:
        raise RecipeError(f"{path}: not a text file") from None


def _known_recipes() -> list[Path]:
    found = sorted((ROOT / "configs").rglob("*.yaml"))
    here = Path.cwd()
    return [p.relative_to(here) if p.is_relative_to(here) else p for p in found]


def _recipes() -> str:
    """The recipes by their folder: there are too many to name each with its path."""
    folders: dict[Path, list[str]] = {}
    for path in _known_recipes():
        folders.setdefault(path.parent, []).append(path.name)
    top, *deeper = sorted(folders, key=lambda folder: (len(folder.parts), folder))
    names = ", ".join(f"{top / name}" for name in folders[top])
    more = ", ".join(f"{folder} ({len(folders[folder])})" for folder in deeper)
    return f"\nrecipes here: {names}" + (f", and in {more}" if more else "")


def _override(
    cls: type[BaseModel], data: dict[str, Any], overrides: Sequence[str]
) -> tuple[dict[str, Any], set[Keys]]:
    """Sets `key.path=value`; null takes a named entry (a stream) out. Also gives the paths that were set."""
    given: set[Keys] = set()
    for text in overrides:
        name, equals, value = text.partition("=")
        path: Keys = tuple(name.split("."))
        if not equals or not all(path):
            raise RecipeError(f"{COMMAND_LINE}: {text!r} is not key.path=value")
        place: Any = data
        for depth, key in enumerate(path[:-1]):
            if place.get(key) is None:
                place[key] = {}
            place = place[key]
            if not isinstance(place, dict):
                at = dotted(path[: depth + 1])
                raise RecipeError(f"{COMMAND_LINE}: {name}: {at} is {place!r}, it has no fields")
        parsed = parse_yaml(value, f"{COMMAND_LINE}: {name}")
        if parsed.value is None and is_named(cls, path[:-1]):
            if path[-1] not in place:
                near = (
                    near_miss(str(path[-1]), [*place]) or f"there are {', '.join(place) or 'none'}"
                )
                raise RecipeError(
                    f"{COMMAND_LINE}: {name}: nothing of that name to take out; {near}"
                )
            del place[path[-1]]
        else:
            place[path[-1]] = parsed.value
        given.add(path)
    return data, given


def _bad_names(cls: type[BaseModel], data: Any, path: Keys = ()) -> Iterator[tuple[Keys, str]]:
    """Names of streams and corpora become folders and parts of a path, so they are plain."""
    if not isinstance(data, dict):
        return
    for key, value in data.items():
        if is_named(cls, path) and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", key):
            what = "a name has letters, digits, _ and - only"
            yield (*path, key), f"{dotted((*path, key))}: {what}"
        yield from _bad_names(cls, value, (*path, key))


def _expanded(value: Any, path: Keys, problems: list[tuple[Keys, str]]) -> Any:
    """Every text with its environment variables put in; a missing one is added to the problems."""
    if isinstance(value, dict):
        return {key: _expanded(inner, (*path, key), problems) for key, inner in value.items()}
    if isinstance(value, list):
        return [_expanded(inner, (*path, i), problems) for i, inner in enumerate(value)]
    if not isinstance(value, str):
        return value
    try:
        return expand(value)
    except RecipeError as error:
        problems.append((path, f"{dotted(path)}: {error}"))
        return value


def _where(path: Keys, file: str, parsed: Parsed, given: set[Keys]) -> str:
    """The line of a path, or of the nearest thing around it that is in the file."""
    if any(path[: len(g)] == g for g in given):
        return COMMAND_LINE
    for end in range(len(path), 0, -1):
        if path[:end] in parsed.lines:
            return f"{file}:{parsed.lines[path[:end]]}"
        if any(g[:end] == path[:end] for g in given):
            return COMMAND_LINE
    return file
