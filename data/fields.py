"""A source row (a JSON object, a table row) into a document, by the recipe's `fields`.

* A path is a key, or keys joined by dots that reach into objects; a number picks from a list, and a
  key asked of a list is asked of each of its entries. Lists of texts, and several paths, are joined
  by a blank line; a title of several paths by a comma.
* A section is an object with `text` and one of `title`, `label`, `heading`, or what `{each, title,
  text}` in the recipe says it is. Its title stands on a line of its own above its text.
* A row without a field it must have is the recipe's mistake as long as no row had it, and a bad row
  afterwards.
* A turn is `{role, content}`, `{from, value}` or a plain string; strings alternate, the user
  begins. `{Q, A}` is two turns: a question and its answer.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data.config import FieldsConfig, SectionsConfig
from data.document import Document, Turn, document_id
from data.paths import Missing, entries, plain, reach

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
TITLES = ("title", "label", "heading")
# An optional field that none of so many rows has is taken for a misspelt one.
PATIENCE = 1000


class UnusableRow(Exception):
    """This row makes no document; `reason` says why: in general, a colon, in particular."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


class RowReader:
    """Makes documents of the rows of one input, remembering which fields were ever seen in it.

    Raises:
        ValueError: the fields do not say what a document is.
    """

    def __init__(self, fields: FieldsConfig, name: str):
        if (fields.prompt is None) != (fields.response is None):
            raise ValueError(
                f"corpora.{name}.fields: prompt and response go together; name both or neither"
            )
        if fields.turns is not None and fields.prompt is not None:
            raise ValueError(f"corpora.{name}.fields: name turns, or prompt and response, not both")
        if fields.input is not None and fields.prompt is None:
            raise ValueError(
                f"corpora.{name}.fields.input: goes with prompt and response; name them too"
            )
        if fields.text is None and fields.prompt is None and fields.turns is None:
            fields = fields.model_copy(update={"text": "text"})
        if fields.title is not None and fields.text is None:
            raise ValueError(
                f"corpora.{name}.fields.title: stands before a text; name fields.text too"
            )
        self._fields, self._name = fields, name
        self._seen: set[str] = set()
        self._unseen: dict[str, tuple[str, Missing]] = {}
        self._rows = 0

    def document(self, row: Mapping[str, Any], place: str) -> Document:
        """The document of one row; `place` is its `file:line`.

        Raises:
            UnusableRow: the row is to be set aside.
            ValueError: the recipe names a field that is not there; says file, line, field and the
                fields there are.
        """
        self._rows += 1
        if self._rows == PATIENCE:
            self.finish()
        fields = self._fields
        turns = []
        if system := self._text(row, "system", place):
            turns.append(Turn("system", system))
        title = self._text(row, "title", place)
        if fields.text is not None:
            text = self._text(row, "text", place, needed=True)
            if text.strip():
                turns.append(Turn("text", f"{title}\n{text}" if title else text))
            elif fields.prompt is None and fields.turns is None:
                raise UnusableRow("empty document")
        if fields.prompt is not None:
            prompt = self._text(row, "prompt", place, needed=True)
            user = "\n".join(
                part for part in (prompt, self._text(row, "input", place)) if part.strip()
            )
            response = self._text(row, "response", place, needed=True)
            if not user.strip() and not response.strip():
                raise UnusableRow("empty document")
            for field, value in (("prompt", user), ("response", response)):
                if not value.strip():
                    raise UnusableRow(f"empty {field}")
            turns += [Turn("user", user), Turn("assistant", response)]
        if fields.turns is not None:
            turns += self._turns(row, place)
        for turn in turns:
            try:
                turn.text.encode()
            except UnicodeEncodeError as error:
                raise UnusableRow(
                    f"not valid Unicode: character {error.start} of a {turn.role} turn"
                ) from None
        meta: dict[str, Any] = {}
        for key, field in (("source_id", "id"), ("group", "group"), ("dataset", "dataset")):
            if value := self._text(row, field, place):
                meta[key] = value
        if title:
            meta["title"] = title
        return Document(document_id(turns), tuple(turns), place, meta)

    def finish(self) -> None:
        """Say so when a field that rows may lack was in no row at all."""
        for path, (place, missing) in self._unseen.items():
            if path not in self._seen:
                raise self._error(path, place, missing)

    def _text(self, row: Mapping[str, Any], field: str, place: str, *, needed: bool = False) -> str:
        paths = getattr(self._fields, field)
        texts: list[str] = []
        for path in paths if isinstance(paths, tuple) else () if paths is None else (paths,):
            if isinstance(path, SectionsConfig):
                texts += self._sections(row, field, path, place)
                continue
            value = self._value(row, field, path, place, needed=needed)
            texts += self._texts(value, f"{field}: {path}", place)
        if len(texts) == 1:
            return texts[0]
        return (", " if field == "title" else "\n\n").join(text for text in texts if text.strip())

    def _value(
        self, row: Mapping[str, Any], field: str, path: str, place: str, *, needed: bool
    ) -> Any:
        try:
            value = reach(row, path)
        except Missing as missing:
            label = f"{field}: {path}"
            if needed and label not in self._seen:
                raise self._error(label, place, missing) from None
            if needed:
                raise UnusableRow(f"field missing: {path}") from None
            self._unseen.setdefault(label, (place, missing))
            return None
        self._seen.add(f"{field}: {path}")
        return value

    def _texts(self, value: Any, label: str, place: str) -> Iterator[str]:
        value = plain(value)
        if isinstance(value, str):
            yield value
        elif isinstance(value, bool | int | float):
            yield str(value)
        elif isinstance(value, Mapping):
            listed = entries(value)
            if listed is not value:
                yield from self._texts(listed, label, place)
                return
            title = next((key for key in TITLES if key in value), None)
            if title is None or "text" not in value:
                raise ValueError(
                    f"{place}: corpora.{self._name}.fields.{label} is an object with the fields "
                    f"{', '.join(map(str, value))}; name one of them with a dot, or say which is "
                    "its title and which its text: {each, title, text}"
                )
            yield from self._section(value[title], value["text"], label, place)
        elif isinstance(value, Sequence):
            for entry in value:
                yield from self._texts(entry, label, place)
        elif value is not None:
            raise ValueError(
                f"{place}: corpora.{self._name}.fields.{label} is a {type(value).__name__}, "
                "not text"
            )

    def _sections(
        self, row: Mapping[str, Any], field: str, config: SectionsConfig, place: str
    ) -> Iterator[str]:
        """The texts of a list, each under its title: of objects, or of texts beside their titles."""
        label = f"{field}: {config.each}"
        found = entries(self._value(row, field, config.each, place, needed=True))
        found = [found] if isinstance(found, Mapping | str) else found
        parts = [part for part in map(plain, found or ()) if part is not None]
        if all(isinstance(part, Mapping) for part in parts):
            for part in parts:
                title = self._value(part, field, config.title, place, needed=False)
                text = self._value(part, field, config.text, place, needed=True)
                yield from self._section(title, text, label, place)
            return
        titles = plain(self._value(row, field, config.title, place, needed=False))
        titles = [titles] if isinstance(titles, str) else titles or []
        if len(titles) != len(found):
            raise UnusableRow(
                f"sections and titles do not go together: {len(found)} of {config.each}, "
                f"{len(titles)} of {config.title}"
            )
        for title, text in zip(titles, found, strict=True):
            yield from self._section(title, text, label, place)

    def _section(self, title: Any, text: Any, label: str, place: str) -> Iterator[str]:
        """A section as one text: its title on a line of its own. One without text is left out."""
        heading = " ".join(" ".join(self._texts(title, label, place)).split())
        body = "\n\n".join(part for part in self._texts(text, label, place) if part.strip())
        if body:
            yield f"{heading}\n{body}" if heading else body

    def _turns(self, row: Mapping[str, Any], place: str) -> list[Turn]:
        assert self._fields.turns is not None
        path = self._fields.turns
        value = plain(self._value(row, "turns", path, place, needed=True))
        value = entries(value)
        if isinstance(value, Mapping):
            raise self._turns_error(place, value)
        if not isinstance(value, Sequence) or isinstance(value, str):
            if value is None:
                raise UnusableRow("empty document")
            raise self._turns_error(place, value)
        turns = []
        for number, entry in enumerate(_exchanges_opened(value)):
            if isinstance(entry, str):
                role, text = ("user", "assistant")[number % 2], entry
            elif isinstance(entry, Mapping) and {"role", "content"} <= entry.keys():
                role, text = plain(entry["role"]), _content(entry["content"])
            elif isinstance(entry, Mapping) and {"from", "value"} <= entry.keys():
                role, text = plain(entry["from"]), _content(entry["value"])
            else:
                raise self._turns_error(place, entry)
            if role not in ROLES:
                raise UnusableRow(f"unknown role: {role}")
            if text.strip():
                turns.append(Turn(ROLES[role], text))
            elif ROLES[role] != "system":
                raise UnusableRow(f"empty turn: number {number + 1} ({role})")
        if not any(turn.role != "system" for turn in turns):
            raise UnusableRow("empty document")
        return turns

    def _turns_error(self, place: str, entry: Any) -> ValueError:
        there = (
            f"an object with {', '.join(entry)}"
            if isinstance(entry, Mapping)
            else type(entry).__name__
        )
        return ValueError(
            f"{place}: corpora.{self._name}.fields.turns: {self._fields.turns} holds {there}; "
            "a turn is "
            "{role, content}, {from, value}, {Q, A} or a plain string"
        )

    def _error(self, label: str, place: str, missing: Missing) -> ValueError:
        where = f"{missing.where} has" if missing.where else "there are"
        near = difflib.get_close_matches(missing.key, missing.known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return ValueError(
            f"{place}: corpora.{self._name}.fields.{label}: no field {missing.key!r}; {where}: "
            f"{', '.join(missing.known) or 'none'}{hint}"
        )


def top_level(fields: FieldsConfig) -> list[str]:
    """Every path that `fields` names, for sources that can leave other columns unread."""
    names: list[str] = []
    for name in type(fields).model_fields:
        value = getattr(fields, name)
        for path in value if isinstance(value, tuple) else () if value is None else (value,):
            # A section's title may be a column beside the texts', or a key inside them.
            names += [path] if isinstance(path, str) else [path.each, path.title]
    return names or ["text"]


def _exchanges_opened(turns: Sequence[Any]) -> Iterator[Any]:
    """Turns as they stand; a question with its answer, `{Q, A}`, as two."""
    for entry in map(plain, turns):
        if isinstance(entry, Mapping) and {"Q", "A"} <= entry.keys():
            yield {"role": "user", "content": entry["Q"]}
            yield {"role": "assistant", "content": entry["A"]}
        else:
            yield entry


def _content(content: Any) -> str:
    content = plain(content)
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence) and all(
        isinstance(p, Mapping) and p.get("type") == "text" for p in content
    ):
        return "".join(part["text"] for part in content)
    raise UnusableRow(f"a turn that is not text: {type(content).__name__}")
