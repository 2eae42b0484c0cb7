"""lm-eval's results as the leaderboard's figures and a card's `model-index`."""

import json
import os
import re
from typing import Any

import pytest
import yaml

from evaluation.leaderboard import main, mean, read_results, rows_of, table

CARD = """---
library_name: transformers
license: other
license_name: to-be-chosen  # fill in before publishing
tags:
- lectern
---

# mine

A model. --- Nothing more.
"""


def board(**changes: Any) -> dict[str, Any]:
    """Results of the whole group: MMLU's subjects from 0 to 1 in even steps, of unequal sizes."""
    subjects = [f"mmlu_{i}" for i in range(57)]
    values = {
        "arc_challenge": {"acc,none": 0.9, "acc_norm,none": 0.5, "acc_norm_stderr,none": 0.01},
        "hellaswag": {"acc,none": 0.9, "acc_norm,none": 0.6},
        "truthfulqa_mc2": {"acc,none": 0.4},
        "winogrande": {"acc,none": 0.7},
        "gsm8k": {"exact_match,strict-match": 0.2, "exact_match,flexible-extract": 0.9},
        **{name: {"acc,none": i / 56} for i, name in enumerate(subjects)},
        "mmlu": {"acc,none": 0.99},  # lm-eval's, weighted by size
        "mmlu_stem": {"acc,none": 0.99},
        "open_llm_leaderboard": {"alias": "Open LLM Leaderboard"},
    }
    shots = {"arc_challenge": 25, "hellaswag": 10, "truthfulqa_mc2": 0, "winogrande": 5, "gsm8k": 5}
    shots |= dict.fromkeys(subjects, 5)
    return {
        "results": {name: {"alias": name, "sample_len": 10} | v for name, v in values.items()},
        "group_subtasks": {
            "open_llm_leaderboard": [
                "arc_challenge",
                "hellaswag",
                "mmlu",
                "truthfulqa_mc2",
                "winogrande",
                "gsm8k",
            ],
            "mmlu": ["mmlu_stem"],
            "mmlu_stem": subjects,
        },
        "n-shot": shots,
        "n-samples": {name: {"original": 10, "effective": 10} for name in shots},
        "configs": {},
        "lm_eval_version": "0.4.13",
    } | changes


def test_the_leaderboards_figures_and_their_mean():
    """acc_norm, acc, mc2 and strict exact match; MMLU is the plain mean over its subjects."""
    rows = rows_of(board())
    values = {row.task: row.value for row in rows}
    assert values == pytest.approx(
        {
            "arc_challenge": 0.5,
            "hellaswag": 0.6,
            "mmlu": 0.5,
            "truthfulqa_mc2": 0.4,
            "winogrande": 0.7,
            "gsm8k": 0.2,
        }
    )
    assert mean(rows) == pytest.approx((0.5 + 0.6 + 0.5 + 0.4 + 0.7 + 0.2) / 6)
    assert next(row.items for row in rows if row.task == "mmlu") == 570
    assert "| **mean of the leaderboard's** | | | **48.33** | | |" in table(rows)
    assert (
        "| AI2 Reasoning Challenge (25-shot) | 25 | normalized accuracy | 50.00 | 1.00 | 10 |"
        in table(rows)
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda r: r["n-shot"].update(arc_challenge=0), "arc_challenge was not run as"),
        (lambda r: r["results"].pop("winogrande"), "winogrande was not run as"),
        (lambda r: r["group_subtasks"]["mmlu_stem"].pop(), "all of 57 subjects"),
    ],
)
def test_other_settings_are_not_the_leaderboards(change, told):
    results = board()
    change(results)
    with pytest.raises(ValueError, match=told):
        rows_of(results)


def test_without_the_whole_group_there_is_no_mean():
    """Tasks that were asked for one by one: what agrees with the leaderboard counts, no mean."""
    results = board()
    del results["group_subtasks"]["open_llm_leaderboard"], results["results"]["gsm8k"]
    results["n-shot"]["hellaswag"] = 0
    results["results"]["wiki"] = {
        "word_perplexity,none": 12.5,
        "word_perplexity_stderr,none": "N/A",
    }
    rows = rows_of(results)
    assert mean(rows) is None
    assert {row.task for row in rows if row.counted} == {
        "arc_challenge",
        "mmlu",
        "truthfulqa_mc2",
        "winogrande",
    }
    plain = {(row.task, row.metric): row.scale * row.value for row in rows if not row.counted}
    assert plain["hellaswag", "acc_norm"] == pytest.approx(60)
    assert plain["wiki", "word_perplexity"] == 12.5  # no share, no percent


def test_figures_go_into_a_card_and_replace_older_ones(tmp_path, capsys):
    (tmp_path / "README.md").write_text(CARD)
    results = tmp_path / "results_1.json"
    results.write_text(json.dumps(board()))
    main([str(results), "--card", str(tmp_path)])
    once = (tmp_path / "README.md").read_text()
    main([str(results), "--card", str(tmp_path)])
    assert (tmp_path / "README.md").read_text() == once
    front, body = once[4:].split("\n---", 1)
    assert body == CARD[4:].split("\n---", 1)[1]
    assert "# fill in before publishing" in front
    (index,) = yaml.safe_load(front)["model-index"]
    assert index["name"] == "mine"
    assert len(index["results"]) == 7
    arc = index["results"][0]
    assert arc["dataset"] == {
        "name": "AI2 Reasoning Challenge",
        "type": "allenai/ai2_arc",
        "config": "ARC-Challenge",
        "split": "test",
        "args": {"num_few_shot": 25},
    }
    assert arc["metrics"] == [{"type": "acc_norm", "name": "normalized accuracy", "value": 50.0}]
    assert index["results"][-1]["metrics"][0]["value"] == 48.33


def test_the_hub_reads_the_card(tmp_path):
    """With the Hub's own library: every figure is there."""
    from huggingface_hub import ModelCard

    (tmp_path / "README.md").write_text(CARD)
    (tmp_path / "results_1.json").write_text(json.dumps(board()))
    main([str(tmp_path), "--card", str(tmp_path)])
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.model_name == "mine"
    values = {r.dataset_name: r.metric_value for r in data.eval_results or []}
    assert values["GSM8k"] == 20.0
    assert len(values) == 7


@pytest.mark.parametrize(
    ("card", "results", "told"),
    [
        (
            CARD,
            board() | {"n-samples": {"gsm8k": {"original": 10, "effective": 5}}},
            "gsm8k.*without --limit",
        ),
        ("# no front matter\n", board(), "does not begin with front matter"),
        (None, board(), "is not there"),
        (CARD, board() | {"results": {}, "group_subtasks": {}}, "hold no figures"),
    ],
)
def test_a_card_is_not_given_what_is_no_score(tmp_path, capsys, card, results, told):
    if card:
        (tmp_path / "README.md").write_text(card)
    (tmp_path / "results_1.json").write_text(json.dumps(results))
    with pytest.raises(SystemExit):
        main([str(tmp_path / "results_1.json"), "--card", str(tmp_path)])
    assert re.search(told, capsys.readouterr().err)
    if card:
        assert (tmp_path / "README.md").read_text() == card


def test_the_newest_results_of_a_folder_are_taken(tmp_path):
    for number, value in (("1", 0.1), ("2", 0.2)):
        path = tmp_path / "model" / f"results_{number}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"results": {"t": {"acc,none": value}}}))
        os.utime(path, (int(number), int(number)))
    assert read_results(str(tmp_path))["results"]["t"]["acc,none"] == 0.2
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no results"):
        read_results(str(tmp_path / "empty"))
