"""How texts and pairs are set out: golden texts of every mode, and draws that are what they say."""

import itertools
import math
from collections import Counter
from dataclasses import replace

import pytest
import yaml

from data.document import Turn, document_id
from data.synthesis.config import ModesConfig, TemplatesConfig
from data.synthesis.format import Task
from data.synthesis.templates import (
    TEMPLATES,
    Inline,
    ItemStyle,
    Pattern,
    load_templates,
    numeral,
)
from data.synthesis.templatify import Layout, draw_layout, order_of, set_out

OURS = load_templates()
CONFIG = TemplatesConfig()
SEEDS = [document_id([Turn("text", f"document {n}")]) for n in range(5000)]
FREE = Task("free", "What does it pump?", "Blood")
CHOICE = Task("options", "Is it a pump?", "yes", ("yes", "no", "at times", "never"))
REASONED = Task("reasoned", "How often in two minutes?", "140", (), "2 x 70 = 140.")
BOTH = Task("reasoned options", "Even or odd?", "even", ("odd", "even"), "140 is 2 x 70.")
TEXT = "The heart pumps blood."


def layout(mode, inverted=False, **changes) -> Layout:
    plain = Layout(
        mode=mode,
        inverted=inverted,
        wrappers={
            "read_start": "Read.",
            "comprehension_start": "Answer.",
            "inverted_start": "Begin here.",
            "inverted_end": "That is all.",
            "text_start": "The text:",
        },
        separator="\n\n",
        apart="\n\n",
        header="Options:",
        item=ItemStyle("({n}) ", "A"),
        terminator=";",
        between="\n",
        labels=True,
        patterns={
            "free": Pattern("Q: {question}", "A: {answer}"),
            "options": Pattern("Q: {question}\n{options}", "A: {answer}"),
            "reasoned": Pattern("Q: {question}", "{rationale}\nA: {answer}"),
            "reasoned options": Pattern("Q: {question}\n{options}", "{rationale}\nA: {answer}"),
        },
        conclusion="So it is: {answer}",
        speakers=("Ann: ", "Ben: "),
        dialog_header="{asker} asks {teller}.",
        numbering=ItemStyle("{n}. ", "1"),
        heads=("Questions:", "Answers:"),
        plain=Inline("Examples:", "Q: {question}\nA: {answer}", "Now: {question}"),
        explained=Inline(
            "Examples:",
            "Q: {question}\n{because}A: {answer}",
            "Now: {question}",
            "R: {rationale}\n",
        ),
        next_turn=("{asker} talks to {teller}.", "{teller} goes on:"),
    )
    return replace(plain, **changes)


def shown(tasks, *args, **changes) -> str:
    return set_out(TEXT, tasks, layout(*args, **changes), "d1", OURS)


def test_classic():
    order = [("yes", "no", "at times", "never")[i] for i in order_of(4, "d1", CHOICE.question)]
    items = "\n".join(f"({'ABCD'[i]}) {option};" for i, option in enumerate(order))
    label = "ABCD"[order.index("yes")]
    assert shown([FREE, CHOICE, REASONED], "classic") == (
        "Read.\nThe heart pumps blood.\n\nAnswer.\nQ: What does it pump?\nA: Blood\n\n"
        f"Q: Is it a pump?\nOptions:\n{items}\nA: {label}\n\n"
        "Q: How often in two minutes?\n2 x 70 = 140.\nA: 140"
    )


def test_the_text_comes_last_where_inverted():
    assert shown([FREE], "classic", True) == (
        "Begin here.\n\nQ: What does it pump?\nA: Blood\n\nThat is all.\n\n"
        "The text:\nThe heart pumps blood."
    )


def test_dialog():
    assert shown([FREE, REASONED], "dialog") == (
        "Read.\nThe heart pumps blood.\n\nAnswer.\nAnn asks Ben.\nAnn: What does it pump?\n"
        "Ben: Blood\nAnn: How often in two minutes?\nBen: 2 x 70 = 140. So it is: 140"
    )


def test_numbered():
    assert shown([FREE, REASONED], "numbered") == (
        "Read.\nThe heart pumps blood.\n\nAnswer.\nQuestions:\n1. What does it pump?\n"
        "2. How often in two minutes?\n\nAnswers:\n1. Blood\n2. 2 x 70 = 140. So it is: 140"
    )


def test_inline():
    other = Task("free", "What pumps?", "The heart")
    assert shown([FREE, other], "inline") == (
        "Read.\nThe heart pumps blood.\n\nAnswer.\nExamples:\n\nQ: What does it pump?\nA: Blood\n\n"
        "Now: What pumps?\nThe heart"
    )
    assert shown([REASONED, FREE], "inline").endswith(
        "Examples:\n\nQ: How often in two minutes?\nR: 2 x 70 = 140.\nA: 140\n\n"
        "Now: What does it pump?\nBlood"
    )


def test_next_turn():
    other = Task("free", "What pumps?", "The heart")
    assert shown([FREE, other], "next_turn") == (
        "Read.\nThe heart pumps blood.\n\nAnswer.\nAnn talks to Ben.\n\nAnn: What does it pump?\n"
        "Ben: Blood\nAnn: What pumps?\n\nBen goes on:\nBen: The heart"
    )


def test_a_single_pair_has_nothing_to_number():
    for mode in ("numbered", "inline", "next_turn"):
        assert shown([FREE], mode) == shown([FREE], "classic")


def test_options_without_labels_are_answered_by_their_text():
    text = shown([CHOICE], "classic", item=ItemStyle("- ", None))
    assert text.endswith("\nA: yes")
    assert text.count("\n- ") == 4
    assert shown([CHOICE], "classic", labels=False).endswith("\nA: yes")


def test_an_answer_before_its_options_is_no_label():
    back = {
        **layout("classic").patterns,
        "options": Pattern("The answer is: {answer}", "Q: {question}\n{options}"),
    }
    text = shown([CHOICE], "classic", patterns=back)
    assert "The answer is: yes\nQ: Is it a pump?\nOptions:\n(A)" in text


def test_a_pattern_without_options_leaves_them_out_unless_the_question_needs_them():
    bare = {**layout("classic").patterns, "options": Pattern("Q: {question}", "A: {answer}")}
    assert shown([CHOICE], "classic", patterns=bare).endswith("Q: Is it a pump?\nA: yes")
    needy = replace(CHOICE, question="Which of these is right?")
    text = shown([needy], "classic", patterns=bare)
    assert "Which of these is right?\nOptions:\n(A)" in text


def test_forty_options_have_forty_labels():
    options = tuple(f"value {n}" for n in range(40))
    task = Task("options", "Which value?", "value 31", options)
    text = set_out(TEXT, [task], layout("classic"), "d1", OURS)
    assert "(Z) value" in text
    assert "(AA) value" in text
    assert "(AN) value" in text
    at = order_of(40, "d1", "Which value?").index(31)
    assert text.endswith(f"A: {numeral('A', at)}")


def test_braces_and_percent_signs_in_texts_are_text():
    task = Task("free", "What is {x} % {0}?", "a {answer} {}")
    text = set_out("A {text}.", [task], layout("classic"), "d1", OURS)
    assert "Q: What is {x} % {0}?\nA: a {answer} {}" in text


def test_nothing_is_set_out_without_tasks():
    with pytest.raises(ValueError, match="stays as it is"):
        shown([], "classic")


def test_every_drawn_layout_holds_text_and_pairs():
    tasks = [FREE, CHOICE, REASONED, BOTH]
    for seed in SEEDS[:1500]:
        drawn = draw_layout(seed, OURS, CONFIG, least_pairs=4)
        text = set_out(TEXT, tasks, drawn, seed, OURS)
        assert text.count(TEXT) == 1
        for task in tasks:
            assert task.question in text
            assert not task.rationale or task.rationale in text
        assert "Blood" in text
        assert "{" not in text
        assert text == text.strip()
        assert "\n\n\n\n" not in text
        first, last = (text.index(part) for part in (TEXT, FREE.question))
        assert (first > last) == drawn.inverted


# --- draws ----------------------------------------------------------------------------------------


def p_value(chi2: float, dof: int) -> float:
    """Upper tail of the chi-square distribution: the regularised incomplete gamma function Q."""
    a, x = dof / 2, chi2 / 2
    if x < a + 1:  # by its series
        term = total = 1 / a
        n = a
        while abs(term) > 1e-15 * abs(total):
            n += 1
            term *= x / n
            total += term
        return 1 - total * math.exp(-x + a * math.log(x) - math.lgamma(a)) if x > 0 else 1.0
    b, c, d = x + 1 - a, 1e300, 1 / (x + 1 - a)  # by its continued fraction
    h = d
    for i in range(1, 1000):
        an = -i * (i - a)
        b += 2
        d = 1 / (an * d + b)
        c = b + an / c
        h *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return h * math.exp(-x + a * math.log(x) - math.lgamma(a))


def fits(counts: Counter, expected: dict) -> float:
    """p of the counts under the stated probabilities."""
    total = sum(counts.values())
    assert set(counts) <= {key for key, share in expected.items() if share}
    cells = [(counts[key], total * share) for key, share in expected.items() if share]
    return p_value(sum((o - e) ** 2 / e for o, e in cells), len(cells) - 1)


def independent(pairs: list[tuple]) -> float:
    """p of two draws having nothing to do with each other."""
    first, second = (Counter(column) for column in zip(*pairs, strict=True))
    joint, total = Counter(pairs), len(pairs)
    chi2 = sum(
        (joint[a, b] - first[a] * second[b] / total) ** 2 / (first[a] * second[b] / total)
        for a in first
        for b in second
    )
    return p_value(chi2, (len(first) - 1) * (len(second) - 1))


def test_the_p_values_are_right():
    """Against tables of the distribution."""
    for chi2, dof, p in ((3.841, 1, 0.05), (9.488, 4, 0.05), (13.277, 4, 0.01), (0.711, 4, 0.95)):
        assert p_value(chi2, dof) == pytest.approx(p, rel=2e-3)
    skewed = Counter({"a": 600, "b": 400})
    assert fits(skewed, {"a": 0.5, "b": 0.5}) < 1e-6
    assert independent([(n % 2, n % 2) for n in range(100)]) < 1e-6


@pytest.fixture(scope="module")
def layouts() -> list[Layout]:
    return [draw_layout(seed, OURS, CONFIG, least_pairs=3) for seed in SEEDS]


def test_modes_and_inversion_come_as_often_as_stated(layouts):
    modes = dict(CONFIG.modes)
    assert modes == {
        "classic": 0.8, "dialog": 0.05, "numbered": 0.05, "inline": 0.05, "next_turn": 0.05,
    }  # fmt: skip
    assert fits(Counter(item.mode for item in layouts), modes) > 0.01
    assert fits(Counter(item.inverted for item in layouts), {True: 0.05, False: 0.95}) > 0.01


def test_a_single_pair_is_classic_or_dialog():
    drawn = Counter(draw_layout(s, OURS, CONFIG, least_pairs=1).mode for s in SEEDS)
    assert fits(drawn, {"classic": 0.95, "dialog": 0.05}) > 0.01


def test_other_chances_are_kept_as_well():
    config = TemplatesConfig(
        modes=ModesConfig(classic=0.1, dialog=0.4, numbered=0.3, inline=0.2, next_turn=0),
        invert=0.5,
        label_answers=0.5,
    )
    drawn = [draw_layout(seed, OURS, config, least_pairs=2) for seed in SEEDS]
    assert fits(Counter(item.mode for item in drawn), dict(config.modes)) > 0.01
    assert fits(Counter(item.inverted for item in drawn), {True: 0.5, False: 0.5}) > 0.01
    labelled = [item.labels for item in drawn if item.item.numeral]
    assert fits(Counter(labelled), {True: 0.5, False: 0.5}) > 0.01
    both = [(item.mode, item.inverted, item.labels) for item in drawn if item.item.numeral]
    for first, second in itertools.combinations(range(3), 2):
        assert independent([(row[first], row[second]) for row in both]) > 0.01


@pytest.mark.parametrize("question", ["Is it a pump?", "Which one?"])
@pytest.mark.parametrize("num_options", [2, 4, 5])
def test_the_right_option_stands_anywhere_equally_often(num_options, question):
    for right in (0, num_options - 1):
        places = Counter(order_of(num_options, seed, question).index(right) for seed in SEEDS)
        assert fits(places, dict.fromkeys(range(num_options), 1 / num_options)) > 0.01


def test_every_order_of_options_is_equally_likely():
    orders = Counter(tuple(order_of(3, seed, "Which?")) for seed in SEEDS)
    wanted = dict.fromkeys(itertools.permutations(range(3)), 1 / 6)
    assert fits(orders, wanted) > 0.01


def test_the_first_questions_of_documents_have_orders_of_their_own():
    """Published: 300 of 300 documents had the same order there."""
    assert len({tuple(order_of(4, seed, "Which?")) for seed in SEEDS[:300]}) == 24


def test_mode_inversion_and_option_place_are_pairwise_independent(layouts):
    places = [order_of(4, seed, "Which?").index(0) for seed in SEEDS]
    second = [order_of(4, seed, "Another?").index(0) for seed in SEEDS]
    draws = {
        "mode": [item.mode for item in layouts],
        "inverted": [item.inverted for item in layouts],
        "place": places,
        "place of the second question": second,
        "read start": [bool(item.wrappers["read_start"]) for item in layouts],
        "comprehension start": [bool(item.wrappers["comprehension_start"]) for item in layouts],
        "header": [item.header for item in layouts],
        "apart": [item.apart for item in layouts],
        "separator": [item.separator for item in layouts],
    }
    for first, other in itertools.combinations(draws, 2):
        pairs = list(zip(draws[first], draws[other], strict=True))
        assert independent(pairs) > 0.01 / 36, (first, other)  # 36 pairs are looked at
    named = ("mode", "inverted", "place")
    for first, other in itertools.combinations(named, 2):
        assert independent(list(zip(draws[first], draws[other], strict=True))) > 0.01
    assert {(m, True) for m in dict(CONFIG.modes)} <= set(
        zip(draws["mode"], draws["inverted"], strict=True)
    )


def test_patterns_are_drawn_evenly(layouts):
    for shape, patterns in OURS.patterns.items():
        counts = Counter(item.patterns[shape].text for item in layouts)
        assert fits(counts, {p.text: 1 / len(patterns) for p in patterns}) > 0.001
    counts = Counter((item.item.frame, item.item.numeral) for item in layouts)
    assert fits(counts, {(i.frame, i.numeral): 1 / len(OURS.items) for i in OURS.items}) > 0.001


# --- the file -------------------------------------------------------------------------------------


def test_there_are_as_many_as_published():
    patterns, wrappers = OURS.patterns, OURS.wrappers
    least = {"free": 79, "options": 48, "reasoned": 210, "reasoned options": 240}
    assert {
        shape: len(patterns[shape]) >= count for shape, count in least.items()
    } == dict.fromkeys(least, True)
    assert sum(not pattern.shows_options for pattern in patterns["options"]) >= 24
    least = {
        "read_start": 50, "comprehension_start": 84, "inverted_start": 42, "inverted_end": 8,
        "text_start": 60,
    }  # fmt: skip
    assert all(len(wrappers[name].lines) >= count for name, count in least.items())
    assert wrappers["read_start"].empty == wrappers["comprehension_start"].empty == 0.5
    assert len(OURS.headers) >= 16
    assert len(OURS.items) >= 87
    assert len(OURS.terminators) == 3
    assert len(OURS.numberings) >= 64
    assert len(OURS.speakers) >= 50
    assert len(OURS.dialog_headers) >= 15
    assert len(OURS.heads) >= 11
    assert len(OURS.next_turn) >= 15
    assert {kind: len(items) for kind, items in OURS.inline.items()} == {
        "plain": 10, "explained": 10,
    }  # fmt: skip


def test_numerals_go_on_without_end():
    assert [numeral("A", n) for n in (0, 25, 26, 51, 52, 701, 702)] == [
        "A", "Z", "AA", "AZ", "BA", "ZZ", "AAA",
    ]  # fmt: skip
    assert [numeral("i", n) for n in (0, 3, 8, 39, 1993)] == ["i", "iv", "ix", "xl", "mcmxciv"]
    assert numeral("1", 26) == "27"
    for system in ("A", "a", "1", "I", "i"):
        assert len({numeral(system, n) for n in range(1000)}) == 1000


def damaged(tmp_path, change) -> str:
    record = yaml.safe_load(TEMPLATES.read_text(encoding="utf-8"))
    change(record)
    path = tmp_path / "templates.yaml"
    path.write_text(yaml.safe_dump(record, allow_unicode=True))
    return str(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("inverted_end"), "has no 'inverted_end'"),
        (lambda r: r["options"]["headers"].append("Options:"), "stands there twice"),
        (lambda r: r["patterns"]["free"][1]["prompts"].append("Say this."), "lacks a field"),
        (lambda r: r["patterns"]["free"][1]["replies"].append("{answr}"), "lacks a field"),
        (lambda r: r["patterns"]["reasoned"][1]["replies"].append("{answer}"), "lacks a field"),
        (
            lambda r: r["patterns"]["free"][1]["prompts"].append("A quick check, then. {question}"),
            "nearly the same",
        ),
        (lambda r: r["inline"]["plain"][0].update(asks="Now?"), "lacks a field"),
        (lambda r: r["options"].update(numerals=["X"]), "none of A, a, 1, I, i"),
        (lambda r: r["numbered"]["frames"].append("- "), "lacks a field"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load_templates(damaged(tmp_path, change))


def test_a_file_of_ones_own_is_used(tmp_path):
    path = damaged(tmp_path, lambda r: r.update(conclusions=["Done: {answer}"]))
    mine = load_templates(path)
    drawn = draw_layout("x", mine, CONFIG, least_pairs=2)
    assert drawn.conclusion == "Done: {answer}"
    with pytest.raises(ValueError, match="cannot be read"):
        load_templates(str(tmp_path / "none.yaml"))
