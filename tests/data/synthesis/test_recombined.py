"""Recombined pages: every question answered out of its text, under a name that no page has."""

from data.split import is_held_out
from data.synthesis.format import Pair
from data.synthesis.passage import Passage
from data.synthesis.recombined import RecombinedConfig, recombined

KINDS = ("What is (are) {}?", "What causes {}?", "Who is at risk for {}?")


def page(title: str, group: str, kinds: tuple[str, ...] = KINDS) -> Passage:
    shown = [f"{title.capitalize()} is of kind {i} here. More of {title}." for i in range(3)]
    pairs = tuple(
        Pair(kind.format(title), line.split(" More")[0])
        for kind, line in zip(kinds, shown, strict=False)
    )
    text = "\n".join([title, *shown[: len(pairs)]])
    return Passage(text, pairs, "free-form", "pages", group)


TITLES = [f"{first}{last} disease" for first in ("aba", "oro", "ulu") for last in "bcdfghk"]
PAGES = [page(title, f"page {i}") for i, title in enumerate(TITLES)]
HELD_OUT = {p.text.split("\n")[0] for p in PAGES if is_held_out(p.group, 0.3)}


def test_a_text_answers_its_questions_under_one_new_name():
    made = list(recombined(PAGES, RecombinedConfig(number=200, heldout=0), "again"))
    assert len({passage.group for passage in made}) == 200
    new = 0
    for passage in made:
        name, *shown = passage.text.split("\n")
        new += name not in TITLES
        said = name[0].upper() + name[1:]
        for i, (pair, line, kind) in enumerate(zip(passage.pairs, shown, KINDS, strict=True)):
            assert pair.question == kind.format(name)
            # The paragraph is one that answers this very question, and tells of the new name.
            assert line == f"{said} is of kind {i} here. More of {name}."
            assert pair.answer == f"{said} is of kind {i} here."
    assert 50 < new < 190  # and titles as they are, too
    assert made == list(recombined(PAGES, RecombinedConfig(number=200, heldout=0), "again"))


def test_pages_that_are_held_out_lend_nothing():
    assert 2 <= len(HELD_OUT) <= 15
    marked = [
        Passage(f"{p.text} Secret.", p.pairs, p.kind, p.dataset, p.group)
        if p.text.split("\n")[0] in HELD_OUT
        else p
        for p in PAGES
    ]
    made = list(recombined(marked, RecombinedConfig(number=300, heldout=0.3), "again"))
    assert len(made) == 300
    assert not any("Secret" in passage.text for passage in made)
    lent = {word for title in HELD_OUT for word in title.split()[:1]}
    assert not any(word in passage.text.lower().split() for passage in made for word in lent)
    all_ = recombined(marked, RecombinedConfig(number=300, heldout=0), "again")
    assert any("Secret" in passage.text for passage in all_)  # what is looked for can be found


def test_a_page_whose_question_does_not_name_it_is_not_used():
    odd = page("gout", "g", ("What is it?", "What causes {}?"))
    assert not list(recombined([odd], RecombinedConfig(number=5, heldout=0), "again"))
    named = list(recombined([odd, *PAGES], RecombinedConfig(number=100, heldout=0), "again"))
    assert not any(pair.question == "What is it?" for made in named for pair in made.pairs)
