"""Metrics against plain counts; every defect of the published evaluators fails here if it comes back.

A defect is shown by an example on which the published rule (`reference_compatible`) and ours differ: the
published one gives the number that is known of it, ours the right one.
"""

import math
import random

import numpy as np
import pytest

from evaluation import answers, exam
from evaluation.bootstrap import interval
from evaluation.metrics import Outcome, measure, per_item

THREE = ("negative", "neutral", "positive")


def outcome(gold, chosen, options=THREE, **more):
    return Outcome(gold=(gold,), chosen=(chosen,), options=options, **more)


def value(metric, outcomes, **more):
    return measure([metric], outcomes, **more)[metric]["value"]


def plain_f1(golds, chosen, label):
    """F1 of one class from its definition."""
    right = sum(g == c == label for g, c in zip(golds, chosen, strict=True))
    found, wanted = chosen.count(label), golds.count(label)
    precision, recall = right / max(found, 1), right / max(wanted, 1)
    return 0.0 if right == 0 else 2 * precision * recall / (precision + recall)


@pytest.fixture(scope="module")
def drawn():
    rng = random.Random(3)
    golds = [rng.choice([0, 0, 0, 1, 2]) for _ in range(60)]
    chosen = [g if rng.random() < 0.6 else rng.randrange(3) for g in golds]
    return golds, chosen


def test_f1_over_classes_against_its_definition(drawn):
    golds, chosen = drawn
    outcomes = [outcome(g, c) for g, c in zip(golds, chosen, strict=True)]
    each = [plain_f1(golds, chosen, label) for label in range(3)]
    assert value("macro_f1", outcomes) == pytest.approx(sum(each) / 3)
    weighted = sum(f * golds.count(label) for label, f in enumerate(each)) / len(golds)
    assert value("weighted_f1", outcomes) == pytest.approx(weighted)
    accuracy = np.mean([g == c for g, c in zip(golds, chosen, strict=True)])
    assert value("accuracy", outcomes) == pytest.approx(accuracy)
    # Micro-F1 of items with one class each is no other number than accuracy.
    assert value("micro_f1", outcomes) == pytest.approx(accuracy)
    assert per_item("macro_f1", outcomes) == per_item("accuracy", outcomes)


def test_f1_agrees_with_scikit_learn(drawn):
    metrics = pytest.importorskip("sklearn.metrics")
    golds, chosen = drawn
    outcomes = [outcome(g, c) for g, c in zip(golds, chosen, strict=True)]
    for average in ("micro", "macro", "weighted"):
        expected = metrics.f1_score(golds, chosen, average=average)
        assert value(f"{average}_f1", outcomes) == pytest.approx(expected)


def test_a_class_is_its_text_where_the_order_of_options_changes():
    turned = tuple(reversed(THREE))
    outcomes = [outcome(0, 0), outcome(2, 2, turned), outcome(1, 2), outcome(1, 0, turned)]
    # negative twice, right; neutral twice, both taken for positive
    assert value("macro_f1", outcomes) == pytest.approx((1 + 0 + 0) / 3)


def test_grouped_means_weigh_groups_alike():
    yes_no = ("No", "Yes")
    a = [outcome(0, 0, yes_no, group="0") for _ in range(9)]
    b = [outcome(1, 0, yes_no, group="1")]
    found = measure(["grouped_weighted_f1"], a + b)
    assert found["grouped_weighted_f1"]["value"] == pytest.approx(0.5)
    assert found["grouped_weighted_f1[0]"]["value"] == 1.0
    # Each group keeps its size in a draw, so a sure score has a sure interval.
    assert found["grouped_weighted_f1"]["interval"] == [0.5, 0.5]


def test_an_item_without_a_right_option_is_no_item_of_a_class():
    with pytest.raises(ValueError, match="no right option"):
        measure(["macro_f1"], [Outcome(gold=(), chosen=(0,), options=THREE)])


# --- UNFAIR-ToS: lists of gold labels -------------------------------------------------------------


def test_defect_shorter_gold_lists_were_filled_with_class_0():
    """[[3], [1, 2]] became [[3, 0], [1, 2]], so class 0 was right for the first."""
    outcomes = [Outcome(gold=(3,), chosen=(0,)), Outcome(gold=(1, 2), chosen=(2,))]
    assert per_item("set_accuracy", outcomes) == (0.0, 1.0)
    assert per_item("set_accuracy", outcomes, reference_compatible=True) == (1.0, 1.0)
    # It depended on the batch: in a batch of its own the same item was wrong.
    apart = [outcomes[0]] * 4 + [outcomes[1]]
    assert per_item("set_accuracy", apart, reference_compatible=True)[:4] == (0.0,) * 4


# --- ConvFinQA: numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "gold", "right", "published"),
    [
        ("13.5%", "14.1%", False, True),  # within 0.01 as a fraction
        ("14.1", "14.1%", True, False),  # the sign left out
        ("007", "012", False, True),  # both unreadable, both infinite
        ("007", "7", True, False),
        ("1, 2, 3 or 60", "60", False, True),  # one guess of many
        ("\n60", "60", True, False),  # a line break before the answer
        ("60", "60", True, True),
        ("0.141", "14.1%", True, True),
        ("14.14%", "14.1%", True, True),
        ("61", "60", False, False),
        ("about $1,234.50", "1234.5", True, True),
        ("(12.4)", "-12.4", True, False),
        ("88 - 28 = 60", "60", True, True),
        ("nothing", "60", False, False),
        ("yes", "Yes.", True, False),
    ],
)
def test_defects_of_numbers(written, gold, right, published):
    assert answers.numeric_match(written, gold) is right
    assert answers.reference_numeric_match(written, gold) is published


def test_no_text_of_a_model_is_run_as_code():
    """The published rule evaluated what a pattern had found."""
    assert not answers.numeric_match("__import__('os').getcwd() 2**99999999", "3")


def test_the_last_number_answers_where_a_calculation_is_written():
    worked = "She has 3 boxes of 4.\nSo 3 * 4 = 12.\nThe answer is 12 pens."
    assert answers.numeric_match(worked, "12", which="last")
    assert not answers.numeric_match(worked, "12", which="first")


# --- NER: lists of named things -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "gold", "score", "published"),
    [
        ("Bob Lee (PER)", "Ann Lee (PER)", 0.0, 1.0),  # only the last word was kept
        ("Ann Lee (ORG)", "Ann Lee (PER)", 0.0, 0.5),  # half a point for the name alone
        ("", "", 1.0, 0.0),  # nothing where there is nothing
        ("\nAnn Lee (PER)", "Ann Lee (PER)", 1.0, 0.0),  # a line break before the answer
        ("Smith, Inc. (ORG), Oslo (LOC)", "Oslo (LOC), Smith, Inc. (ORG)", 1.0, 1.0),
        ("Oslo (LOC)", "Oslo (LOC), Ann Lee (PER)", 2 / 3, 2 / 3),
        ("Oslo (LOC), Oslo (LOC)", "Oslo (LOC)", 2 / 3, 2 / 3),
    ],
)
def test_defects_of_spans(written, gold, score, published):
    assert answers.span_f1(written, gold) == pytest.approx(score)
    assert answers.reference_span_f1(written, gold) == pytest.approx(published)


def test_span_f1_over_all_spans_is_given_beside_the_mean_over_items():
    outcomes = [
        Outcome(value=1.0, counts=(1, 1, 1)),
        Outcome(value=0.0, counts=(0, 3, 0)),
    ]
    found = measure(["span_f1"], outcomes)
    assert found["span_f1"]["value"] == 0.5
    assert found["span_f1[all spans]"]["value"] == pytest.approx(2 * 1 / (4 + 1))


# --- exams: letters -------------------------------------------------------------------------------

COMPLAINTS = ("fever", "high fever", "cough", "rash", "pain")


@pytest.mark.parametrize(
    ("reply", "letters"),
    [
        ("B", "B"),
        (" B. high fever", "B"),
        ("The correct answer is: (C)", "C"),
        ("The answer is C because nothing else fits", "C"),
        ("A, C and D", "ACD"),
        ("ACD", "ACD"),
        ("D、A", "AD"),
        ("答案是ACD。", "ACD"),
        ("It is high fever.", "B"),
        ("Either A or B", None),
        ("I do not know", None),
        ("A patient like this should rest", None),
        ("options A and C are wrong, B", None),
        ("The answer is A. No, the answer is C", "C"),
        ("", None),
        ("Z", None),
    ],
)
def test_letters_of_a_reply(reply, letters):
    found = exam.read_letters(reply, COMPLAINTS)
    assert (None if found is None else "".join("ABCDE"[i] for i in found)) == letters


def test_defect_a_reply_that_says_nothing_was_a_b():
    assert exam.reference_letters("I do not know", COMPLAINTS) == (1,)
    assert exam.read_letters("I do not know", COMPLAINTS) is None


def test_defect_only_the_first_letter_of_several_counted():
    several = [Outcome(gold=(0,), chosen=(0, 1, 2), options=COMPLAINTS, kind="single")]
    assert value("exam_accuracy", several) == 0.0
    assert value("exam_accuracy", several, reference_compatible=True) == 1.0


def test_several_right_letters_must_all_be_named():
    outcomes = [
        Outcome(gold=(0, 2), chosen=chosen, options=COMPLAINTS, kind=kind)
        for chosen, kind in (((0, 2), "multiple"), ((0,), "multiple"), ((), "single"))
    ]
    found = measure(["exam_accuracy"], outcomes)
    assert found["exam_accuracy"]["value"] == pytest.approx(1 / 3)
    assert found["exam_accuracy[multiple]"]["value"] == 0.5
    assert found["exam_accuracy[single]"]["value"] == 0.0


# --- intervals ------------------------------------------------------------------------------------


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    rng = np.random.default_rng(0)
    right = (rng.random(400) < 0.7).astype(float)
    low, high = interval(lambda w: float(w @ right / w.sum()), 400)
    spread = 1.96 * math.sqrt(right.mean() * (1 - right.mean()) / 400)
    assert low == pytest.approx(right.mean() - spread, abs=0.01)
    assert high == pytest.approx(right.mean() + spread, abs=0.01)


def test_groups_keep_their_size():
    seen = []
    interval(lambda w: float(seen.append((w[:3].sum(), w[3:].sum())) or 0), 5, groups="aaabb")
    assert set(seen) == {(3, 2)}
