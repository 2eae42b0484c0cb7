"""The records of an XML file, one at a time: each is cut out of the bytes and parsed on its own.

A parser gives up at the first mistake, and with it the 30,000 articles behind that. So a file is
cut behind the end tag of every record, and each piece is parsed after the same *head*: the XML
declaration, the document type and the elements that stand open around the records. What is held is
one record. Nothing is fetched: a document type is not read, and the entities that it would name are
those of HTML.
"""

import contextlib
import html.entities
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from xml.parsers import expat

from data.broken import Broken

BLOCK = 1 << 20
TAG_BYTES = 1 << 10  # no end tag is longer
EXCERPT = 200
_ENTITIES = {
    name.removesuffix(";"): text
    for name, text in html.entities.html5.items()
    if name.endswith(";") and name not in ("lt;", "gt;", "amp;", "quot;", "apos;")
}


def xml_records(
    file: io.BufferedIOBase, names: tuple[str, ...], max_bytes: int
) -> Iterator[tuple[int, ET.Element | Broken]]:
    """Yields (line, element) for every element called one of `names`, whatever its namespace.

    What is not well-formed comes as `Broken` in its place, and reading goes on with the next record.

    Args:
        file: the decompressed bytes, in UTF-8 or the encoding that the declaration names.
        names: local names of the elements that are records; they do not contain each other.
        max_bytes: a record longer than this is set aside unread.
    """
    either = b"|".join(name.encode() for name in names)
    start = re.compile(rb"<(?:[\w.-]+:)?(?:%s)(?=[\s/>])" % either)
    end = re.compile(rb"</(?:[\w.-]+:)?(?:%s)\s*>" % either)
    head: _Head | None = None
    line = 1
    for piece, dropped in _pieces(file, end, max_bytes):
        found = start.search(piece)
        if head is None and found:
            head = _Head(piece[: found.start()])
            line += piece.count(b"\n", 0, found.start())
            piece, found = piece[found.start() :], start.match(piece, found.start())
        if dropped:
            yield line, Broken(f"too long: over {max_bytes} bytes in one record", "")
            line += dropped.count
        elif head is None:
            if piece.strip():
                yield line, _without_records(piece, names)
        elif found:
            for record in _split(piece, start):
                yield line + _blank_lines(record), _parse(head, record, names)
                line += record.count(b"\n")
            continue
        elif (reason := head.complaint(piece)) is not None:  # what stands behind the last record
            yield line + _blank_lines(piece), Broken(f"broken XML: {reason}", _shown(piece))
        line += piece.count(b"\n")


class _Head:
    """What stands before the first record, and the end tags that what it opened needs."""

    def __init__(self, content: bytes):
        self.content = content
        self.open: list[str] = []
        parser = expat.ParserCreate()
        parser.StartElementHandler = lambda name, _: self.open.append(name)
        parser.EndElementHandler = lambda _: self.open.pop()
        with contextlib.suppress(expat.ExpatError):  # every record after it says so
            parser.Parse(content, False)
        self.closing = "".join(f"</{name}>" for name in reversed(self.open)).encode()

    def complaint(self, tail: bytes) -> str | None:
        """Why the end of the file, after the last record, is not well-formed; None if it is."""
        try:
            # Where nothing is open, the record was the root; comments may follow.
            _tree(self.content + tail if self.open else b"<end>" + tail + b"</end>")
        except ET.ParseError as error:
            return _told(error)
        return None


@dataclass
class _Dropped:
    """What was thrown away of a record that is too long."""

    count: int  # of its line ends


def _pieces(
    file: io.BufferedIOBase, end: re.Pattern[bytes], max_bytes: int
) -> Iterator[tuple[bytes, _Dropped | None]]:
    """The bytes, cut behind every `end`; of a piece that is too long, its last part.

    What stands behind the last `end` comes too, were it nothing.
    """
    buffer, searched = bytearray(), 0
    dropped: _Dropped | None = None
    while block := file.read(BLOCK):
        buffer += block
        start = 0
        while found := end.search(buffer, max(start, searched)):
            yield bytes(buffer[start : found.end()]), dropped
            dropped = None
            start = searched = found.end()
        del buffer[:start]
        if len(buffer) > max_bytes:
            gone = len(buffer) - TAG_BYTES
            dropped = dropped or _Dropped(0)
            dropped.count += buffer.count(b"\n", 0, gone)
            del buffer[:gone]
        searched = max(0, len(buffer) - TAG_BYTES)  # an end tag may lie across two blocks
    yield bytes(buffer), dropped


def _split(piece: bytes, start: re.Pattern[bytes]) -> Iterator[bytes]:
    """A piece has one record, unless the end tag of one before it is missing."""
    starts = [found.start() for found in start.finditer(piece)]
    for first, last in zip([0, *starts[1:]], [*starts[1:], len(piece)], strict=True):
        yield piece[first:last]


def _parse(head: _Head, record: bytes, names: tuple[str, ...]) -> ET.Element | Broken:
    try:
        tree = _tree(head.content + record + head.closing)
    except ET.ParseError as error:
        return Broken(f"broken XML: {_told(error)}", _shown(record))
    found = next((e for e in tree.iter() if local_name(e) in names), None)
    if found is None:  # it stands in a comment or in text
        return Broken("broken XML: a record that is none", _shown(record))
    return found


def _tree(content: bytes) -> ET.Element:
    parser = ET.XMLParser()
    if b"&" in content:
        parser.entity.update(_ENTITIES)
    parser.feed(content)
    return parser.close()


def _without_records(content: bytes, names: tuple[str, ...]) -> Broken:
    try:
        root = local_name(_tree(content))
    except ET.ParseError as error:
        return Broken(f"broken XML: {_told(error)}", _shown(content))
    return Broken(f"no record: there is no {' or '.join(names)} in this {root}", _shown(content))


def local_name(element: ET.Element) -> str:
    """An element's name without its namespace; '' for comments and instructions."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _told(error: ET.ParseError) -> str:
    return str(error).rpartition(": line ")[0] or str(error)  # the line of a piece says nothing


def _blank_lines(record: bytes) -> int:
    return record.count(b"\n", 0, len(record) - len(record.lstrip()))


def _shown(content: bytes) -> str:
    return content.lstrip()[:EXCERPT].decode(errors="replace").rstrip()
