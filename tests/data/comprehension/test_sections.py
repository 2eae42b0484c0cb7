from data.comprehension.language import load_language
from data.comprehension.mine import mine
from data.comprehension.sections import split_sections

EN = load_language("en")
OPINION = """SUPREME COURT OF THE STATE

This appeal arises from a contract for the sale of timber. The buyer did not pay the price that \
the parties had agreed on, and the seller sued for it.

I. FACTUAL BACKGROUND

In 2011 the parties signed a contract. The buyer took the timber in March and paid nothing. The \
seller waited for six months and then brought this action before the district court.

II. DISCUSSION

A. Standard of Review

We review questions of law anew and findings of fact for clear error only. The district court heard \
eleven witnesses and believed the seller, and we see no reason to disturb that finding.
"""
ABSTRACT = """Aspirin and fever in adults

BACKGROUND: Fever is common. METHODS are described below.

METHODS: We gave aspirin to forty adults and measured their temperature every hour for a day; the \
dose was the same for all of them, and nobody knew who had received it before the end of the day.

Conclusions: Aspirin lowers the fever of adults within two hours, and its effect lasts for half a \
day in most of them; it should therefore be given twice a day to adults who have a high fever."""


def test_sections_of_an_opinion():
    sections = split_sections(OPINION, EN)
    assert [section.title for section in sections] == [
        None,
        "FACTUAL BACKGROUND",
        "DISCUSSION",
        "Standard of Review",
    ]
    assert OPINION[sections[1].start : sections[1].stop].startswith("In 2011 the parties")
    assert OPINION[sections[1].start : sections[1].stop].endswith("the district court.")
    assert sections[2].start == sections[2].stop  # a title right under a title


def test_labels_open_sections():
    sections = split_sections(ABSTRACT, EN)
    assert [section.title for section in sections] == [None, "BACKGROUND", "METHODS", "Conclusions"]
    assert ABSTRACT[sections[2].start :].startswith("We gave aspirin")


def test_sections_lie_in_order_and_do_not_overlap():
    for text in (OPINION, ABSTRACT, "No title here. Nothing but text.", ""):
        at = 0
        for section in split_sections(text, EN):
            assert at <= section.start <= section.stop <= len(text)
            at = section.stop


def test_a_text_without_titles_is_one_section():
    assert [s.title for s in split_sections("A plain text. It has no titles.", EN)] == [None]


def test_section_tasks_need_text_under_the_title():
    tasks = [task for task in mine(OPINION, EN, None) if task.family == "section"]
    assert [task.slots["title"] for task in tasks] == ["FACTUAL BACKGROUND", "Standard of Review"]
    for task in tasks:
        ((start, stop),) = task.spans
        assert OPINION[start:stop] == task.slots["body"]


def test_items_and_sentences_are_no_titles():
    text = "Things to bring along\n\n- A coat\n- A hat\n\nThat is all.\n\n(see page 12)\n\nGood bye now."
    assert [section.title for section in split_sections(text, EN)] == [None]
