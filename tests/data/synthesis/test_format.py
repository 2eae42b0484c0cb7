"""The synthesizer's text format: golden bytes, and reading back what was written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.generator import Sampling
from data.synthesis.format import (
    Example,
    Pair,
    Rejected,
    Task,
    parse,
    read_task,
    synthesis_prompt,
    unwritable,
    write_context,
    write_example,
    write_prompt,
    write_task,
)

FREE = Pair("What does the heart pump?", "Blood")
CHOICE = Pair("What does it pump?\nOptions:\n- Blood\n- Air", "Blood")
REASONED = Pair(
    "How often in two minutes?\nLet's think step by step.",
    "It beats 70 times a minute, and 2 x 70 = 140.\nTherefore, the answer is 140",
)
BOTH = Pair(
    "Is it a pump?\nOptions:\n- yes\n- no\nLet's think step by step.",
    "It moves blood.\nTherefore, the answer is yes",
)
TEXT = "The heart pumps blood. It beats 70 times a minute."


def test_the_bytes_are_the_published_ones():
    """Spelled out, so that no constant of ours can move them."""
    assert write_context(TEXT) == (
        "<s> <CON> The heart pumps blood. It beats 70 times a minute. </CON>\n\n"
    )
    assert write_example(Example(TEXT, (FREE, CHOICE))) == (
        "<s> <CON> The heart pumps blood. It beats 70 times a minute. </CON>\n\n"
        "<QUE> What does the heart pump? <ANS> Blood </END>\n\n"
        "<QUE> What does it pump?\nOptions:\n- Blood\n- Air <ANS> Blood </END></s>"
    )
    assert write_example(Example("A.", (REASONED, BOTH))) == (
        "<s> <CON> A. </CON>\n\n"
        "<QUE> How often in two minutes?\nLet's think step by step. <ANS> It beats 70 times a "
        "minute, and 2 x 70 = 140.\nTherefore, the answer is 140 </END>\n\n"
        "<QUE> Is it a pump?\nOptions:\n- yes\n- no\nLet's think step by step. <ANS> "
        "It moves blood.\nTherefore, the answer is yes </END></s>"
    )
    assert write_prompt("B.", [Example("A.", (FREE,))]) == (
        "<s> <CON> A. </CON>\n\n<QUE> What does the heart pump? <ANS> Blood </END></s>"
        "<s> <CON> B. </CON>\n\n"
    )


def test_a_prompt_says_itself_where_bos_stands():
    prompt = synthesis_prompt("7", "B.", [Example("A.", (FREE,))], Sampling(max_new_tokens=9))
    assert prompt.literal_special
    assert [turn.role for turn in prompt.turns] == ["text"]
    assert prompt.turns[0].text.count("<s>") == 2
    assert prompt.turns[0].text.startswith("<s> <CON>")
    assert prompt.sampling.max_new_tokens == 9


def test_an_example_without_pairs_is_none():
    with pytest.raises(ValueError, match="needs one pair at least"):
        write_example(Example("A.", ()))


@pytest.mark.parametrize(
    ("pair", "task"),
    [
        (FREE, Task("free", "What does the heart pump?", "Blood")),
        (CHOICE, Task("options", "What does it pump?", "Blood", ("Blood", "Air"))),
        (
            REASONED,
            Task(
                "reasoned",
                "How often in two minutes?",
                "140",
                (),
                "It beats 70 times a minute, and 2 x 70 = 140.",
            ),
        ),
        (BOTH, Task("reasoned options", "Is it a pump?", "yes", ("yes", "no"), "It moves blood.")),
    ],
)
def test_the_four_shapes_are_told_apart_and_written_back(pair, task):
    assert read_task(pair) == task
    assert write_task(task) == pair


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        (Pair("Why?\nLet's think step by step.", "Because."), "rationale does not split"),
        (
            Pair(
                "Why?\nLet's think step by step.",
                "X. Therefore, the answer is A. Y. Therefore, the answer is B",
            ),
            "rationale does not split",
        ),
        (Pair("Why?\nLet's think step by step.", "Therefore, the answer is A"), "empty rationale"),
        (Pair("Why?\nLet's think step by step.", "X. Therefore, the answer is"), "empty answer"),
        (Pair("Why?\nOptions:\nyes\nno", "yes"), "no options"),
        (Pair("Why?\nOptions:", "yes"), "no options"),
        (Pair("Why?\nOptions:\n- yes", "yes"), "no options"),
        (Pair("Why?\nOptions:\n- yes\n-", "yes"), "empty option"),
        (Pair("Why?\nOptions:\n- yes\n- Yes", "yes"), "equal options"),
        (Pair("Options:\n- yes\n- no", "yes"), "no question"),
        (Pair("Let's think step by step.", "X. Therefore, the answer is A"), "no question"),
    ],
)
def test_what_is_no_task_says_why(pair, reason):
    task = read_task(pair)
    assert isinstance(task, Rejected)
    assert task.reason == reason


def test_parts_that_do_not_fit_the_shape_are_refused():
    with pytest.raises(ValueError, match="none of the options"):
        write_task(Task("options", "Q?", "c", ("a", "b")))
    with pytest.raises(ValueError, match="0 options in a task"):
        write_task(Task("options", "Q?", "c"))
    with pytest.raises(ValueError, match="rationale"):
        write_task(Task("reasoned", "Q?", "c"))


def test_marks_in_a_text_are_seen():
    assert unwritable("a <CON> b") == "<CON>"
    assert unwritable("ends </s>") == "</s>"
    assert unwritable("a < b > c <con>") is None


words = st.text(st.characters(codec="utf-8", exclude_characters="<>"), max_size=30)
said = words.map(str.strip).filter(bool)


@given(st.lists(st.builds(Pair, said, said), min_size=1, max_size=5))
def test_pairs_come_back_as_they_were_written(pairs):
    """What a model says after the context block, with and without the closing `</s>`."""
    written = write_example(Example("T.", tuple(pairs)))
    output = written.removeprefix(write_context("T."))
    assert parse(output).pairs == tuple(pairs)
    assert parse(output.removesuffix("</s>")).pairs == tuple(pairs)
    assert not parse(output).rejected


MARKS = ["<s>", "</s>", "<CON>", "</CON>", "<QUE>", "<ANS>", "</END>", "\n\n", " ", "a", "b", "<"]


@given(st.lists(st.sampled_from(MARKS), max_size=24).map("".join))
def test_any_output_is_read_and_nothing_in_a_pair_holds_a_mark(output):
    parsed = parse(output)
    for pair in parsed.pairs:
        assert pair.question == pair.question.strip() != ""
        assert pair.answer == pair.answer.strip() != ""
        assert unwritable(pair.question) is None
        assert unwritable(pair.answer) is None
    if not parsed.pairs and output.strip() not in ("", "</s>"):
        bare = output
        for mark in ("<s>", "</s>", "<CON>", "</CON>"):
            bare = bare.replace(mark, "")
        assert parsed.rejected or not bare.strip()
