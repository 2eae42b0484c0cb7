"""Chat templates: Jinja as transformers compiles it, with marks around `{% generation %}`."""

import functools
from pathlib import Path
from typing import Any

from etils import epath

TEMPLATES = ("plain", "huatuo", "llama2", "llama3", "synthesizer")
# Marks around what the assistant says. Noncharacters: no interchanged text holds them, and no
# template's `strip` removes them.
OPEN, CLOSE = "\ufdd3", "\ufdd4"


@functools.lru_cache(maxsize=16)
def read_template(name: str) -> str:
    """The Jinja source of a template of ours, by its name, or of a file.

    Raises:
        ValueError: it is neither.
    """
    if name in TEMPLATES:
        return (Path(__file__).parent / "chat_templates" / f"{name}.jinja").read_text(
            encoding="utf-8"
        )
    path = epath.Path(name)
    if not path.exists() or path.is_dir():
        raise ValueError(
            f"chat.template: {name!r} is neither {', '.join(TEMPLATES)}, tokenizer "
            "nor a Jinja file that is there"
        )
    return path.read_text(encoding="utf-8")


@functools.lru_cache(maxsize=16)
def compile_template(source: str) -> Any:
    """As transformers would compile it, but for today's date: rows must not depend on the day."""
    import json

    import jinja2.nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

        def _mark(self, caller: Any) -> str:
            return OPEN + caller() + CLOSE

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"chat.template: line {error.lineno}: {error.message}") from error
