"""Texts put in order: what changes, and what must not."""

import pytest

from data.clean.config import NormalizeConfig
from data.clean.normalize import in_space_order, in_unicode_order, normalizer
from data.document import Document, Turn
from tests.data.clean.judged import conversation, text


def put(content: str, **config: object) -> str:
    document, _ = normalizer(NormalizeConfig.model_validate(config))(text(content))
    return document.turns[0].text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("e\u0301te\u0301", "été"),
        ("a\u00a0b\u2009c\u3000d", "a b c d"),
        ("mito\u200bchon\u00addria\ufeff", "mitochondria"),
        ("bell\x07 tab\tstays\x00", "bell tab\tstays"),
        ("ﬁbrosis of the oﬃce ﬂoor", "fibrosis of the office floor"),
        ("one\r\ntwo\rthree\x0cfour\u2028five", "one\ntwo\nthree\nfour\nfive"),
        ("\uf0b7 point \ue123", "• point "),
        ("don\x92t \x93quote\x94 1\x9699\x85 \x81", "don’t “quote” 1–99… "),
    ],
)
def test_characters(before, after):
    assert in_space_order(in_unicode_order(before), 2) == after.strip("\n").rstrip()
    assert in_unicode_order(in_unicode_order(before)) == in_unicode_order(before)


@pytest.mark.parametrize(
    "sound",
    [
        "می\u200cخواهم",  # a joiner that Persian needs
        "👩\u200d⚕️ nurse",
        "क्\u200dष",
        "α-tocopherol ≥ 5 µg/ml … “quoted” — naïve Ångström ½ x² H₂O",
        "他说：「血压是一百二十。」",
        "def f(x):\n    if x:\n        return [1,  2]\n\n\n    return 3",
        "| a   | b  |\n|-----|----|\n| 1   | 2  |",
        "- one\n    - two\n\t- three",
        "A title\n\nA paragraph.\n\nAnother - with a dash -\nand a line.",
    ],
)
def test_sound_text_stays_as_it_is(sound):
    assert put(sound) == sound


def test_spaces_at_line_ends_and_many_blank_lines_go():
    assert put("\n\n  one  \n\t\ntwo\n\n\n\n\n\nthree \n\n") == "  one\n\ntwo\n\n\nthree"
    assert put("one\n\n\n\ntwo", max_blank_lines=1) == "one\n\ntwo"


def test_lines_that_say_nothing_go_and_sentences_that_begin_like_them_stay():
    page = "Skip to main content\nAsthma\n\nRead more about asthma in adults.\nRead more »\nPage 3 of 12\n42"
    assert put(page) == "Asthma\n\nRead more about asthma in adults.\n42"
    assert put("血压\n返回顶部\n血压是力。") == "血压\n血压是力。"
    assert put("Only here\nOur Motto!\ntext", boilerplate_lines=["our motto"]) == "Only here\ntext"
    assert put("Read more") == "Read more"  # nothing else is there


def test_words_cut_at_line_ends_are_joined_where_the_text_shows_it():
    cut = "The mitochondria and the mito-\nchondria of self-\ncontrolled cells."
    assert put(cut) == "The mitochondria and the mitochondria\nof self-\ncontrolled cells."
    assert put("A T-\nShirt and well-\nknown and anti-\nviral drugs") == (
        "A T-\nShirt and well-\nknown and anti-\nviral drugs"
    )
    assert put("rare cut-\nting here, once") == "rare cut-\nting here, once"
    line = "Many words fill this line of text up to its wid"
    wrapped = "\n".join(
        [line, line + "-", "th, and go on to the next one as they must do", *[line] * 5]
    )
    assert "up to its width,\nand go on" in put(wrapped)
    compound = wrapped + "\nthe wid-th of it"
    assert "its wid-\nth, and" in put(compound)


def test_conversations_keep_their_lines():
    before = conversation("Read more\r\nwhat?", "menu\nmito-\nchondria, mitochondria  ")
    after, counts = normalizer(NormalizeConfig())(before)
    assert [t.text for t in after.turns] == [
        "Read more\nwhat?", "menu\nmito-\nchondria, mitochondria",
    ]  # fmt: skip
    assert counts == {"normalize": {"unicode": 1, "whitespace": 1}}


def test_the_id_stays_and_what_does_not_change_is_the_same_object():
    document = text("Nothing to change.")
    assert normalizer(NormalizeConfig())(document)[0] is document
    changed, _ = normalizer(NormalizeConfig())(text("Something \n to change."))
    assert changed.id == text("Something \n to change.").id


def test_the_title_goes_with_its_text():
    document = Document(
        "1", (Turn("text", "The\u00a0title\nThe text."),), "c", {"title": "The\u00a0title"}
    )
    after, _ = normalizer(NormalizeConfig())(document)
    assert after.turns[0].text.startswith(after.meta["title"])


def test_a_title_is_no_boilerplate():
    document = Document("1", (Turn("text", "Menu\nRead more\nSoup."),), "c", {"title": "Menu"})
    assert normalizer(NormalizeConfig())(document)[0].turns[0].text == "Menu\nSoup."


def test_each_part_can_be_turned_off():
    messy = "a\u00a0b  \nRead more\nmitochondria mito-\nchondria"
    off = {"unicode": False, "whitespace": False, "boilerplate": False, "hyphenation": False}
    assert put(messy, **off) == messy
