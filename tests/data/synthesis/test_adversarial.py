"""Outputs that a model should not give, and what a careful reader takes from each."""

import re
from pathlib import Path

import pytest
import yaml

from data.synthesis.config import FiltersConfig
from data.synthesis.filters import judge_pairs
from data.synthesis.format import Pair, parse

LOOSE = FiltersConfig(
    min_answer_overlap=0, min_question_overlap=0, min_rationale_overlap=0, language="off",
    min_question_chars=1, max_question_chars=9999,
)  # fmt: skip


def spelled(text: str) -> str:
    def options(match: re.Match[str]) -> str:
        return "\n".join(f"- option {n + 1}" for n in range(int(match[1])))

    return re.sub(r"\{options:(\d+)\}", options, text)


FILE = Path(__file__).with_name("adversarial.yaml")
CASES = yaml.safe_load(FILE.read_text(encoding="utf-8"))


def test_there_are_a_hundred():
    assert len(CASES) >= 100
    assert len({case["case"] for case in CASES}) == len(CASES)
    assert len({case["output"] for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_it_is_read_as_a_careful_reader_would(case):
    parsed = parse(spelled(case["output"]))
    assert [[pair.question, pair.answer] for pair in parsed.pairs] == [
        [spelled(part) for part in pair] for pair in case["pairs"]
    ]
    assert [item.reason for item in parsed.rejected] == case["rejected"]
    for wanted, pair in zip(case.get("tasks", ()), parsed.pairs, strict=False):
        tasks, rejected = judge_pairs([pair], "Any text.", LOOSE)
        if isinstance(wanted, str):
            assert [item.reason for item in rejected] == [wanted]
        else:
            assert [[task.shape, task.answer] for task in tasks] == [wanted]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_a_good_pair_behind_closed_nonsense_is_found(case):
    """Whatever was said before: a pair after a blank line is read, unless the example was over."""
    output = spelled(case["output"])
    parsed = parse(f"{output}\n\n<QUE> And last of all? <ANS> this </END>")
    over = "after the end" in case["rejected"] or "</s>" in output
    assert (Pair("And last of all?", "this") in parsed.pairs) == (not over)
