"""Sections out of headings and texts in the order in which they stand."""

from collections.abc import Iterable, Iterator


def sections_of(parts: Iterable[tuple[str, str]]) -> Iterator[dict[str, str]]:
    r"""`{title, text}` for every (heading, text) that has text; a heading may be ''.

    A heading straight above another one is the title, and the other begins its text:
    ("Methods", ""), ("Patients", "We saw 20.") is "Patients\nWe saw 20." under "Methods".
    One over nothing, at the end, is left out.
    """
    above: list[str] = []
    for heading, text in parts:
        above += [heading] if heading else []
        if text:
            yield {"title": above[0] if above else "", "text": "\n".join([*above[1:], text])}
            above = []
