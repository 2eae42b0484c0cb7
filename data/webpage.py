"""A web page as a row: its title and the prose in it, without menus, footers and advertisements."""

from typing import Any

from data.broken import Broken
from data.headings import sections_of


def webpage_row(content: bytes, path: str) -> dict[str, Any] | Broken:
    """The row of one HTML file, as trafilatura reads it. Nothing is fetched.

    Fields: `title, sections` (a list of `{title, text}`, one for each heading), `text` (the
    sections' texts with their headings), `author, sitename, url`, `name` and `path` of the file.
    There is no date: the extractor's guess at it depends on the day on which it is made.
    """
    try:
        import trafilatura
    except ImportError as error:
        raise ValueError(
            f"path: {path}: reading web pages needs `pip install trafilatura`"
        ) from error

    # bare_extraction's own default keeps readers' comments.
    page: Any = trafilatura.bare_extraction(content, include_comments=False, with_metadata=True)
    if page is None or not (sections := _sections(page.body, page.title or "")):
        return Broken(
            "no text: the extractor found none in this page",
            content.lstrip()[:200].decode(errors="replace"),
        )
    name = path[path.rfind("/") + 1 :]
    return {
        "title": page.title or "",
        "sections": sections,
        "text": "\n\n".join("\n".join(filter(None, section.values())) for section in sections),
        "author": page.author or "",
        "sitename": page.sitename or "",
        "url": page.url or "",
        "name": name[: name.find(".")] if "." in name else name,
        "path": path,
    }


def _sections(body: Any, title: str) -> list[dict[str, str]]:
    """The blocks under each heading. The first heading is left out where it repeats the title."""
    sections: list[tuple[str, list[str]]] = [("", [])]
    for element in body:
        if element.tag == "head":
            heading = _line(element)
            if heading and heading != " ".join(title.split()):
                sections.append((heading, []))
        elif text := _block(element):
            sections[-1][1].append(text)
    return list(sections_of((heading, "\n\n".join(blocks)) for heading, blocks in sections))


def _block(element: Any) -> str:
    """A paragraph, a list or a table as text."""
    if element.tag in ("list", "table"):
        lines = []
        for item in element:
            if element.tag == "list":
                lines.append(f"- {_line(item)}" if _line(item) else "")
            else:
                lines.append(" | ".join(_line(cell) for cell in item))
        return "\n".join(filter(None, lines))
    if element.tag == "code":
        return "".join(element.itertext()).strip("\n")
    if element.tag == "p":
        return _line(element)
    return "\n\n".join(filter(None, map(_block, element))) or _line(element)


def _line(element: Any) -> str:
    for line_break in element.iter("lb"):
        line_break.tail = f" {line_break.tail or ''}"
    return " ".join("".join(element.itertext()).split())
