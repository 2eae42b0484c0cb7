"""Scientific articles: records of PubMed and full texts in JATS, as rows with plain fields.

`sections` is a list of `{title, text}`: the labelled parts of an abstract, the sections of a body.
A recipe reads them by `fields: {text: sections, title: title, id: pmid}`.

* Superscripts of numbers and charges become `^`: a power must not read as a larger number.
* Left out: reference marks and lists, tables, figures, formulas in TeX, acknowledgements.
"""

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from typing import Any

from data.broken import Broken, Numbered
from data.headings import sections_of
from data.xml_records import local_name, xml_records

PUBMED_RECORDS = ("PubmedArticle", "PubmedBookArticle")
JATS_RECORDS = ("article",)

_POWER = re.compile(r"\d+[+\u2212-]?|[+\u2212-]\d*")
_NOT_PROSE = {
    "table-wrap", "table", "fig", "fig-group", "disp-formula", "tex-math", "ref-list", "fn-group",
    "supplementary-material", "media", "graphic", "object-id", "permissions", "related-article",
}  # fmt: skip
_BLOCKS = {
    "p",
    "list",
    "list-item",
    "def-list",
    "def-item",
    "disp-quote",
    "boxed-text",
    "verse-group",
}
_EMPTIED = re.compile(r"\s*[(\[][\s,;\u2013-]*[)\]]")


def pubmed_rows(file: io.BufferedIOBase, max_bytes: int) -> Iterator[Numbered]:
    """The records of a PubMed file (baseline, update or search result), by line.

    Fields: `pmid, title, sections, abstract` (its text without titles), `journal, year, language,
    mesh, keywords, doi, pmcid`. A record without an abstract has no sections.
    """
    for line, record in xml_records(file, PUBMED_RECORDS, max_bytes):
        yield line, _row(record, _pubmed_row)


def jats_rows(file: io.BufferedIOBase, max_bytes: int) -> Iterator[Numbered]:
    """The articles of a JATS file (one article, or a set of them), by line.

    Fields: `title, sections` (those of the abstract, then of the body, subsections after their
    section), `abstract, body` (the same, apart), `pmid, pmcid, doi, journal, year, language`.
    """
    for line, record in xml_records(file, JATS_RECORDS, max_bytes):
        yield line, _row(record, _jats_row)


def _row(
    record: ET.Element | Broken, make: Callable[[ET.Element], dict[str, Any]]
) -> dict[str, Any] | Broken:
    if isinstance(record, Broken):
        return record
    try:
        return make(record)
    except RecursionError:
        return Broken("nested too deeply: elements within elements without end", "")


def _pubmed_row(record: ET.Element) -> dict[str, Any]:
    citation = _first(record, "MedlineCitation", "BookDocument")
    article = _first(citation, "Article")
    if article is None:  # a book has it all in one place
        article = citation
    abstract = _first(article, "Abstract")
    parts = _children(abstract, "AbstractText")
    sections = [{"title": part.get("Label") or "", "text": _text(part)} for part in parts]
    sections = [section for section in sections if section["text"]]
    # Directly: the references further in have lists of the same name.
    own_ids = _first(_first(record, "PubmedData"), "ArticleIdList", direct=True)
    ids = {e.get("IdType"): _text(e) for e in _children(own_ids, "ArticleId")}
    year = _first(_first(article, "PubDate"), "Year", "MedlineDate")
    return {
        "pmid": _text(_first(citation, "PMID")),
        "title": _text(_first(article, "ArticleTitle", "BookTitle")),
        "sections": sections,
        "abstract": "\n\n".join(section["text"] for section in sections),
        "journal": _text(_first(_first(article, "Journal"), "Title")),
        "year": _text(year)[:4],
        "language": _text(_first(article, "Language")),
        "mesh": [_text(e) for e in _all(citation, "DescriptorName")],
        "keywords": [_text(e) for e in _all(citation, "Keyword")],
        "doi": ids.get("doi", ""),
        "pmcid": ids.get("pmc", ""),
    }


def _jats_row(article: ET.Element) -> dict[str, Any]:
    meta = _first(_first(article, "front"), "article-meta")
    title = _first(_first(meta, "title-group"), "article-title")
    # Graphical and teaser abstracts repeat the abstract itself.
    abstracts = [e for e in _children(meta, "abstract") if e.get("abstract-type") is None]
    abstract = [part for e in abstracts for part in sections_of(_headed(e, "Abstract"))]
    body = [*sections_of(_headed(_first(article, "body"), ""))]
    ids = {e.get("pub-id-type"): _text(e) for e in _children(meta, "article-id")}
    return {
        "pmid": ids.get("pmid", ""),
        "pmcid": ids.get("pmc", "") or ids.get("pmcid", ""),
        "doi": ids.get("doi", ""),
        "title": _text(title),
        "sections": [*abstract, *body],
        "abstract": abstract,
        "body": body,
        "journal": _text(_first(_first(article, "journal-meta"), "journal-title")),
        "year": _text(_first(_first(meta, "pub-date"), "year")),
        "language": article.get("{http://www.w3.org/XML/1998/namespace}lang", ""),
    }


def _headed(element: ET.Element | None, title: str) -> Iterator[tuple[str, str]]:
    """An element's own paragraphs under its heading, then its sections, in their order."""
    if element is None:
        return
    own = next((child for child in element if local_name(child) == "title"), None)
    inner = _children(element, "sec")
    # An abstract's own heading says nothing above those of its parts.
    heading = "" if inner and local_name(element) != "sec" else _text(own) or title
    yield heading, "\n\n".join(_blocks(element))
    for section in inner:
        yield from _headed(section, "")


def _blocks(element: ET.Element) -> Iterator[str]:
    """The paragraphs right under a section, lists as lines."""
    for child in element:
        name = local_name(child)
        if name in ("list", "def-list"):
            items = [_text(item) for item in child if local_name(item) in ("list-item", "def-item")]
            if lines := [f"- {item}" for item in items if item]:
                yield "\n".join(lines)
        elif name in ("disp-quote", "boxed-text"):
            yield from _blocks(child)
        elif name == "p":
            lists = [e for e in child if local_name(e) in ("list", "def-list")]
            if text := _text(child):  # without the lists in it, which follow
                yield text
            for inner in lists:
                yield from _blocks_of_list(inner)


def _blocks_of_list(element: ET.Element) -> Iterator[str]:
    holder = ET.Element("holder")
    holder.append(element)
    yield from _blocks(holder)


def _text(element: ET.Element | None) -> str:
    """An element's text on one line."""
    if element is None:
        return ""
    pieces: list[str] = []
    _gather(element, pieces)
    text = " ".join("".join(pieces).split())
    if any(True for e in element.iter() if local_name(e) == "xref"):
        text = _EMPTIED.sub("", text)
    return text


def _gather(element: ET.Element, pieces: list[str]) -> None:
    name = local_name(element)
    if name == "sup" and _POWER.fullmatch("".join(element.itertext()).strip()):
        pieces.append("^")
    pieces.append(element.text or "")
    for child in element:
        inner = local_name(child)
        mark = inner == "xref" and child.get("ref-type") in ("bibr", "fn", "table-fn")
        marks = (
            inner == "sup"
            and len(child) > 0
            and all(local_name(e) == "xref" and e.get("ref-type") in ("bibr", "fn") for e in child)
        )
        nested_list = inner in ("list", "def-list") and name == "p"
        if not (mark or marks or nested_list or inner in _NOT_PROSE or not inner):
            block = inner in _BLOCKS or inner in ("break", "title", "label", "term", "def")
            pieces.append(" " if block else "")
            _gather(child, pieces)
            pieces.append(" " if block else "")
        pieces.append(child.tail or "")


def _first(element: ET.Element | None, *names: str, direct: bool = False) -> ET.Element | None:
    """The first element below that has one of the names: by name first, then by place."""
    if element is None:
        return None
    below = list(element) if direct else list(element.iter())[1:]
    return next((e for name in names for e in below if local_name(e) == name), None)


def _children(element: ET.Element | None, name: str) -> list[ET.Element]:
    return [] if element is None else [e for e in element if local_name(e) == name]


def _all(element: ET.Element | None, name: str) -> list[ET.Element]:
    return [] if element is None else [e for e in element.iter() if local_name(e) == name]
