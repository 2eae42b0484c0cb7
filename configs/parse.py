"""YAML into plain values, remembering the line of every key.

Scalars follow YAML 1.2's core schema and not YAML 1.1, in which `2e-5` is text, `no` is false and `1:30` is 90.
"""

import os
import re
from dataclasses import dataclass
from typing import Any, ClassVar

import yaml

Keys = tuple[str | int, ...]


class RecipeError(ValueError):
    """What is wrong with a recipe or a command line, in words for the person who wrote it."""


@dataclass(frozen=True)
class Parsed:
    """A value with the line of each of its parts, by their path."""

    value: Any
    lines: dict[Keys, int]


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: ClassVar[dict[str, list]] = {}


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: ClassVar[dict[str, list]] = {}


_SCALARS = [
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    # `1e4` is a whole number: `train.num_steps=1e4` is what people write.
    ("int", r"[-+]?[0-9][0-9_]*(?:[eE]\+?[0-9]+)?", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+[eE][-+]?[0-9]+"
        r"|[0-9][0-9_]*[eE]-[0-9]+)",
        list("-+.0123456789"),
    ),
]
for _name, _pattern, _first in _SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), _first
        )


def parse_yaml(text: str, where: str) -> Parsed:
    """Reads one YAML document.

    Args:
        text: the document.
        where: what to call it in messages: a file's name, "command line".

    Raises:
        RecipeError: not YAML, a key given twice, a tag.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RecipeError(f"{where}{line}: not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{where}: not YAML: {error}") from None
    lines: dict[Keys, int] = {}
    value = None if node is None else _value(node, (), lines, where)
    return Parsed(value, lines)


def dump_yaml(value: Any) -> str:
    """Writes plain values so that `parse_yaml` gives equal ones."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _value(node: yaml.Node, path: Keys, lines: dict[Keys, int], where: str) -> Any:
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise RecipeError(f"{where}:{line}: a key must be a name")
            key = key_node.value
            key_path = (*path, key)
            lines[key_path] = key_node.start_mark.line + 1
            if key in result:
                raise RecipeError(f"{where}:{lines[key_path]}: {dotted(key_path)}: given twice")
            result[key] = _value(value_node, key_path, lines, where)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, i), lines, where) for i, item in enumerate(node.value)]
    text = node.value
    match node.tag.rpartition(":")[2]:
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            digits, _, exponent = text.replace("_", "").lower().partition("e")
            if len(exponent) > 3:
                raise RecipeError(f"{where}:{line}: {dotted(path)}: {text} is too large")
            return int(digits) * 10 ** int(exponent or 0)
        case "float":
            return float(text.replace("_", ""))
        case "str":
            return text
    raise RecipeError(f"{where}:{line}: {dotted(path)}: the YAML tag {node.tag} is not supported")


def expand(text: str) -> str:
    """Puts in `${NAME}` from the environment, and the home folder for a leading `~/`.

    Raises:
        RecipeError: a variable that is not set.
    """

    def variable(match: re.Match[str]) -> str:
        name = match[1]
        if not os.environ.get(name):
            raise RecipeError(
                f"the environment variable {name} is not set; export {name}=..., "
                f"or write the path in place of ${{{name}}}"
            )
        return os.environ[name]

    text = re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", variable, text)
    return os.path.expanduser(text) if text.startswith("~/") else text


def dotted(path: Keys) -> str:
    """`("streams", "reading", "weight", 0)` as `streams.reading.weight[0]`."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text
