from hypothesis import given, settings
from hypothesis import strategies as st

from data.comprehension.language import load_language
from data.comprehension.sentences import split_sentences

EN = load_language("en")


def sentences(text: str, code: str = "en") -> list[str]:
    return [text[start:stop] for start, stop in split_sentences(text, load_language(code))]


def test_abbreviations_decimals_and_citations_do_not_end_a_sentence():
    text = (
        "Smith et al. (2010) gave 0.5 mg of the drug, e.g. by mouth (see Fig. 2). The U.S. "
        "National Library holds vol. 3 of it, cf. Dr. Jones vs. Dr. Brown. It works."
    )
    assert sentences(text) == [
        "Smith et al. (2010) gave 0.5 mg of the drug, e.g. by mouth (see Fig. 2).",
        "The U.S. National Library holds vol. 3 of it, cf. Dr. Jones vs. Dr. Brown.",
        "It works.",
    ]


def test_an_unclosed_bracket_or_less_than_holds_no_sentences_together():
    text = (
        "The time was <30 min. Damage was rare. It healed (as expected. Nobody died. All went home."
    )
    assert len(sentences(text)) == 5


def test_a_remark_in_brackets_stays_with_its_sentence():
    text = "It healed (nobody was hurt. All went home) within a day. Then it rained."
    assert sentences(text)[0].endswith("within a day.")


def test_headings_items_and_empty_lines_end_sentences_and_wrapped_lines_do_not():
    text = (
        "Early Symptoms\n   \nFever is an early symptom of this disease that many people\n"
        "overlook for days.\n- a headache\n- chills\n1. Rest\nSleep well tonight."
    )
    assert sentences(text) == [
        "Early Symptoms",
        "Fever is an early symptom of this disease that many people\noverlook for days.",
        "- a headache",
        "- chills",
        "1. Rest",
        "Sleep well tonight.",
    ]


def test_a_connective_in_lower_case_opens_a_sentence():
    assert len(sentences("The errors are present in all tissues. consequently, many are ill.")) == 2


def test_a_unit_at_the_end_of_a_sentence_is_no_initial():
    assert len(sentences("It acts at a concentration of 10 M. Brief treatment helps.")) == 2
    assert len(sentences("It was named after J. Brown and his team.")) == 1


def test_chinese_sentences_and_quotes():
    text = "他说：“今天下雨。”我们没有出门！你呢？\n第二天，浓度为3.5毫克。"
    assert sentences(text, "zh") == [
        "他说：“今天下雨。”",
        "我们没有出门！",
        "你呢？",
        "第二天，浓度为3.5毫克。",
    ]


@given(st.text(alphabet="Ab c.,!?\n\t()\"'-1。", max_size=400))
@settings(max_examples=300, deadline=None)
def test_spans_are_in_order_and_lose_white_space_only(text: str):
    at = 0
    for start, stop in split_sentences(text, EN):
        assert at <= start < stop <= len(text)
        assert not text[at:start].strip()
        assert text[start:stop] == text[start:stop].strip()
        at = stop
    assert not text[at:].strip()
