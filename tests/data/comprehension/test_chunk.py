"""Long documents in parts: nothing lost, no part too long, cuts where a reader would put them."""

import itertools
import re

from hypothesis import given
from hypothesis import strategies as st

from data.comprehension.chunk import Part, by_length, by_section
from data.comprehension.language import load_language
from data.comprehension.mined import Section
from data.comprehension.sections import split_sections


def sentences(text):
    return [match.span() for match in re.finditer(r"\S[^.]*\.?", text)]


def whole(text, title=None, body=0):
    return Part(0, len(text), title, body)


def cut(text, limit):
    return [text[part.start : part.stop] for part in by_length(text, whole(text), limit, sentences)]


words = st.sampled_from(["a", "cell. ", "divides", " ", "  ", "\n", "\n\n", "\t", "。", "x" * 40])


@given(st.lists(words, max_size=200).map("".join), st.integers(1, 90))
def test_parts_join_to_the_text_and_none_is_too_long(text, limit):
    parts = cut(text, limit)
    assert "".join(parts) == text
    assert all(0 < len(part) <= limit for part in parts) or text == ""


@given(
    st.lists(words, max_size=120).map("".join), st.lists(st.integers(0, 400)), st.integers(1, 90)
)
def test_sections_join_to_the_text(text, places, limit):
    cuts = sorted({min(place, len(text)) for place in places})
    spans = [s for s in itertools.pairwise(cuts) if text[s[0] : s[1]].strip()]
    sections = [Section("T" if n % 2 else None, *span) for n, span in enumerate(spans)]
    parts = by_section(text, sections) if sections else [whole(text)]
    parts = [piece for part in parts for piece in by_length(text, part, limit, sentences)]
    assert "".join(text[part.start : part.stop] for part in parts) == text
    assert all(part.start <= part.body <= part.stop for part in parts)


def test_cuts_are_between_paragraphs_then_lines_then_sentences_then_words():
    text = "One two. Three four.\nFive six. Seven.\n\nEight nine. Ten.\nEleven twelve."
    assert cut(text, 40) == [
        "One two. Three four.\nFive six. Seven.\n\n",
        "Eight nine. Ten.\nEleven twelve.",
    ]
    assert cut("One two. Three four.\nFive six. Seven.", 25) == [
        "One two. Three four.\n",
        "Five six. Seven.",
    ]
    assert cut("One two. Three four.", 12) == ["One two. ", "Three four."]
    assert cut("one two three four", 10) == ["one two ", "three four"]
    assert cut("x" * 10, 4) == ["xxxx", "xxxx", "xx"]


def test_an_indentation_stays_with_its_line():
    assert cut("first line here\n    - second line\n    - third", 24) == [
        "first line here\n",
        "    - second line\n",
        "    - third",
    ]


def test_parts_are_of_about_equal_length():
    text = "A sentence of some words. " * 400
    lengths = [len(part) for part in cut(text, 3000)]
    assert len(lengths) == -(-len(text) // 3000)
    assert max(lengths) < 1.1 * min(lengths)


OPINION = """SMITH v. JONES

I. BACKGROUND

{0}

II. DISCUSSION

A. Standing

{1}

III. CONCLUSION

{2}"""


def test_an_opinion_is_divided_at_its_sections():
    bodies = [
        "The plaintiff sued the town over the closing of a road. " * 8,
        "Standing requires an injury that a court can redress. " * 8,
        "The judgment of the district court is affirmed. " * 5,
    ]
    text = OPINION.format(*(body.strip() for body in bodies))
    parts = by_section(text, split_sections(text, load_language("en")))
    assert "".join(text[part.start : part.stop] for part in parts) == text
    titled = {part.title: text[part.body : part.stop].strip() for part in parts if part.title}
    assert [body.strip() in titled.values() for body in bodies][2]
    assert any("CONCLUSION" in title for title in titled)
    for part in parts:
        if part.title:
            assert part.title in text[part.start : part.body]


def test_a_short_section_is_read_with_the_next():
    text = "INTRODUCTION\nBrief.\nMETHODS\n" + "We counted cells. " * 20
    sections = [Section("INTRODUCTION", 13, 19), Section("METHODS", 28, len(text))]
    assert by_section(text, sections) == [Part(0, len(text), None, 0)]


def test_a_short_last_section_is_read_with_the_one_before():
    text = "METHODS\n" + "We counted cells. " * 20 + "\nEND\nThat is all."
    middle = text.index("\nEND")
    sections = [Section("METHODS", 8, middle - 1), Section("END", middle + 5, len(text))]
    assert by_section(text, sections) == [Part(0, len(text), None, 0)]


def test_a_title_stays_with_the_first_part():
    text = "TITLE\n" + "One two three. " * 20
    first, *others = by_length(text, whole(text, "TITLE", 6), 120, sentences)
    assert (first.title, first.body) == ("TITLE", 6)
    assert others
    assert all(part.title is None and part.body == part.start for part in others)


def test_sections_are_read_together_as_far_as_they_fit():
    text = "".join(f"HEAD {n}\n" + "We counted cells. " * 20 for n in range(6))
    starts = [text.index(f"HEAD {n}") for n in range(6)] + [len(text)]
    sections = [
        Section(f"HEAD {n}", starts[n] + 7, len(text[: starts[n + 1]].rstrip())) for n in range(6)
    ]
    text = text.replace(". HEAD", ".\nHEAD")  # each title on a line of its own
    parts = by_section(text, sections, fill=800)
    assert [part.num_chars // 360 for part in parts] == [2, 2, 2]
    assert all(part.title is None for part in parts)
    assert "".join(text[part.start : part.stop] for part in parts) == text
    assert [part.title for part in by_section(text, sections)] == [f"HEAD {n}" for n in range(6)]
