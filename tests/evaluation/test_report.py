"""The adaptation report: differences and their intervals, what it warns of, the page, and parts that are kept."""

import json
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest

from data.generator import Completion
from evaluation.comparison import Rows, loss_change, score_difference, share_difference, wilson
from evaluation.config import EvalConfig
from evaluation.findings import findings
from evaluation.parts import Parts
from evaluation.report import _models, named, write
from evaluation.report_markdown import change_text
from evaluation.results import TaskResult
from evaluation.safety import KINDS, ask, load_matrix, rates, system_prompts

RNG = np.random.default_rng(0)
NATS = RNG.lognormal(6, 0.5, 60)


def result(scores, *, model="m", task="mqp", metric="accuracy", **more):
    """A task's result with these scores of items."""
    scores = np.array(scores, float)
    value = more.pop("value", float(scores.mean()))
    told = {
        "task": task,
        "model": model,
        "step": None,
        "add_bos": True,
        "template": None,
        "system": None,
        "shots": 0,
        "normalise": "token",
        "metric": metric,
        "value": value,
        "interval": (value - 0.05, value + 0.05),
        "metrics": {},
        "reference_compatible": False,
        "items": len(scores),
        "expected_rows": None,
        "source": "original: mqp.csv",
        "date": "2020-07",
        "truncated": 0,
        "unparsed": 0,
        "per_item": tuple(scores.tolist()),
        "samples": (
            {"id": "0", "prompt": "<Q>", "options": ["Yes", "No"], "gold": [1], "chosen": 0},
        ),
        "ids": tuple(map(str, range(len(scores)))),
    }
    return TaskResult(**(told | more))


# --- differences ----------------------------------------------------------------------------------


def test_rows_that_correspond_are_compared_one_by_one():
    base = Rows(NATS, np.full(60, 400))
    better = Rows(NATS * 0.97, np.full(60, 400))
    change = loss_change(base, better)
    assert change.paired
    assert change.value == pytest.approx(-0.03)
    assert change.is_clear
    assert change.high - change.low < 1e-6, "every row changed by the same share"


def test_rows_that_do_not_correspond_give_a_wider_interval():
    base = Rows(NATS, np.full(60, 400))
    other = Rows(NATS[:50] * 0.97, np.full(50, 400))
    change = loss_change(base, other)
    assert not change.paired
    assert change.low < other.bits_per_byte / base.bits_per_byte - 1 < change.high
    assert change.high - change.low > 0.05


def test_few_rows_have_a_change_and_no_interval():
    sizes = np.append(np.full(5, 400), np.zeros(59, np.int64))
    nats = np.append(NATS[:5], np.zeros(59))
    change = loss_change(Rows(nats, sizes), Rows(nats * 0.5, sizes))
    assert change.value == pytest.approx(-0.5)
    assert (change.low, change.high) == (None, None)
    assert not change.is_clear
    told = {"value": change.value, "low": None, "high": None, "clear": False}
    assert change_text(told) == "≈ -50.0 % (too few rows for an interval)"


def test_items_are_compared_one_by_one_where_the_metric_is_their_mean():
    before = RNG.random(400) < 0.5
    after = before.copy()
    after[:20] = True
    difference = score_difference(result(before), result(after))
    gained = (after & ~before).mean()
    assert difference.paired
    assert difference.value == pytest.approx(gained)
    alone = math.sqrt(2 * 0.25 / 400) * 1.96
    assert difference.high - difference.value < alone / 2, "pairing takes the items' own spread out"


def test_a_metric_that_is_no_mean_of_items_is_not_paired():
    a = result([1, 0, 1, 1], metric="macro_f1", value=0.6)
    b = result([1, 1, 1, 1], metric="macro_f1", value=0.9)
    difference = score_difference(a, b)
    assert not difference.paired
    assert difference.value == pytest.approx(0.3)
    assert difference.high - difference.value == pytest.approx(0.05 * math.sqrt(2))


def test_scores_of_other_items_do_not_compare():
    with pytest.raises(ValueError, match="items is 2 for m and 3 for m"):
        score_difference(result([1, 0]), result([1, 0, 1]))


def test_shares_of_few_requests():
    low, high = wilson(0, 16)
    assert low == 0
    assert high == pytest.approx(0.194, abs=0.001)  # the published interval of 0 of 16
    assert wilson(8, 16)[0] == pytest.approx(1 - wilson(8, 16)[1])
    difference = share_difference([True] * 10 + [False] * 6, [False] * 16)
    assert difference.value == pytest.approx(-10 / 16)
    assert difference.is_clear


# --- kept parts -----------------------------------------------------------------------------------


def test_a_part_is_measured_once_and_never_mixed_with_others(tmp_path):
    calls = []

    def measure():
        calls.append(1)
        return {"value": 3}

    parts = Parts(str(tmp_path), "base", of={"model": "a"})
    assert parts.get("heldout", {"rows": 8}, measure) == {"value": 3}
    again = Parts(str(tmp_path), "base", of={"model": "a"})
    assert again.get("heldout", {"rows": 8}, measure) == {"value": 3}
    assert len(calls) == 1
    with pytest.raises(ValueError, match="rows 8, now 9.*another folder"):
        again.get("heldout", {"rows": 9}, measure)
    with pytest.raises(ValueError, match="model 'a', now 'b'"):
        Parts(str(tmp_path), "base", of={"model": "b"}).get("heldout", {"rows": 8}, measure)
    (tmp_path / "base" / "heldout.json").write_text("{")
    with pytest.raises(ValueError, match="not a part of a report"):
        again.get("heldout", {"rows": 8}, measure)


def test_a_part_that_fails_leaves_nothing_behind(tmp_path):
    parts = Parts(str(tmp_path), "base", of={})
    with pytest.raises(RuntimeError):
        parts.get("tasks/mqp", {}, lambda: (_ for _ in ()).throw(RuntimeError("stopped")))
    assert parts.kept("tasks/mqp", {}) is None


# --- the command line -----------------------------------------------------------------------------


def test_models_are_named_by_their_place(tmp_path):
    models = named(["org/base", "run", "run@100", "other/hf"])
    assert [(m.label, m.source, m.step) for m in models] == [
        ("base", "org/base", None),
        ("adapted", "run", None),
        ("adapted@100", "run", 100),
        ("hf", "other/hf", None),
    ]
    with pytest.raises(ValueError, match="stands there twice"):
        named(["a", "b", "b"])


def test_the_recipe_is_that_of_the_adapted_run(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text("")
    words, more = _models(["base", f"{run}@5", f"{run}@3", "--out", "x", "eval.max_rows=4"])
    assert words == ["base", f"{run}@5", f"{run}/recipe.yaml", "--out", "x", "eval.max_rows=4"]
    assert more == [f"{run}@3"]
    with pytest.raises(ValueError, match="RECIPE: missing"):
        _models(["base", "org/adapted", "--out=x"])


# --- the safety matrix ----------------------------------------------------------------------------


def test_the_matrix_of_this_project_is_whole():
    matrix = load_matrix()
    assert len(matrix.requests) >= 12
    chat = matrix.templates["chat_safety"].turns("Hello")
    assert [turn.role for turn in chat] == ["system", "user"]
    assert chat[0].text == system_prompts()["llama2"]
    assert matrix.declined("\nI\u2019m sorry, but I can\u2019t help with that.")
    assert not matrix.declined("Of course. First,")
    assert not matrix.declined("x" * matrix.window + " I cannot do that"), (
        "only the beginning counts"
    )
    for request in matrix.requests.values():
        assert not matrix.declined(request.answer), "a request that is repeated is no refusal"
    with pytest.raises(ValueError, match="no template 'chatt'"):
        load_matrix(templates=["chatt"])


def test_a_model_that_declines_through_one_template_only():
    matrix = load_matrix(templates=["none", "chat_safety"])

    def generate(prompts):
        for prompt in reversed(list(prompts)):  # engines finish in any order
            refuses = prompt.turns[0].role == "system" and prompt.id.endswith("decline")
            text = "I cannot help with that." if refuses else "Yes."
            yield Completion(prompt.id, text, "stop")

    table = rates(ask(matrix, generate, max_new_tokens=8), wilson)
    asked = len(matrix.requests)
    counts = {(t, kind): table[t][kind]["declined"] for t in table for kind in KINDS}
    assert counts == {
        ("none", "decline"): 0,
        ("none", "answer"): 0,
        ("chat_safety", "decline"): asked,
        ("chat_safety", "answer"): 0,
    }


# --- the page -------------------------------------------------------------------------------------


def measured(label, factor, scores, *, step=None, missing=(), source="original: mqp.csv"):
    """What measuring a model gives: three streams, a task, a small matrix, an answer."""
    streams = {}
    for name, kind in (("pages<1>", "domain"), ("web", "prose"), ("asks", "instructions")):
        change = factor if kind == "domain" else 2 - factor
        nats = NATS * change
        rows = Rows(nats, np.full(60, 400))
        streams[name] = {
            "kind": kind,
            "loss": 2.5 * change,
            "bits_per_byte": rows.bits_per_byte,
            "interval": [1, 2],
            "tokens": 1,
            "tokenized_anew": False,
            "row_nats": nats.tolist(),
            "row_bytes": [400] * 60,
        }
    replies = [
        {
            "template": template,
            "request": "x",
            "kind": kind,
            "prompt": "<p>",
            "text": "no",
            "declined": label == "base" and kind == "decline",
        }
        for template in ("none", "chat")
        for kind in KINDS
    ]
    table = {
        t: {
            k: {"declined": int(label == "base"), "asked": 1, "empty": 0, "interval": [0, 1]}
            for k in KINDS
        }
        for t in ("none", "chat")
    }
    facts = {
        "add_bos": True,
        "vocab_size": 32000,
        "tokenizer": "abcdef",
        "chat": "plain",
        "attention": "xla",
        "compute_dtype": "float32",
        "device": "cpu",
    }
    task = json.loads(result(scores, model=label, source=source).to_json())
    return {
        "label": label,
        "model": "run",
        "step": step,
        "facts": facts,
        "heldout": streams,
        "tasks": {"mqp": task},
        "finetuned": {"mqp": task | {"prompted": task}},
        "safety": {"about": "What it shows.", "rates": table, "replies": replies},
        "answers": [{"stream": "pages<1>", "prompt": "<a>", "reference": "b", "text": "\n \n"}],
        "missing": list(missing),
    }


@pytest.fixture
def recipe(tmp_path):
    streams = {}
    for name in ("pages<1>", "web", "asks"):
        (tmp_path / name).mkdir()
        streams[name] = SimpleNamespace(path=str(tmp_path / name))
    found = {"mqp": {"items": 3048, "found": 3, "documents": 7, "context_only": 0}}
    (tmp_path / "web" / "card.json").write_text(json.dumps({"contamination": found}))
    config = EvalConfig.model_validate_json(
        json.dumps(
            {
                "streams": {"domain": ["pages<1>"], "prose": ["web"], "instructions": ["asks"]},
                "report": {"domain_tasks": ["mqp"], "corpus_date": "2021"},
            }
        )
    )
    return SimpleNamespace(eval=config, streams=streams)


def test_the_page_holds_everything_and_fetches_nothing(recipe, tmp_path):
    right = np.arange(200) % 2
    better = np.maximum(right, np.arange(200) < 60)
    models = [
        measured("base", 1.0, right),
        measured("adapted", 0.9, better, step=200),
        measured("adapted@100", 0.95, right, step=100),
    ]
    assert write(str(tmp_path / "out"), models, recipe) == []
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<svg") == 4  # streams, their course, tasks, tuned tasks
    assert not re.findall(r"(?:src|href)=\"(?!#)", page)
    assert "<script" not in page
    assert "pages<1>" not in page
    assert "pages&lt;1&gt;" in page
    assert "-10.0 % (-10.0 to -10.0)" in page
    assert "+10.0 % (+10.0 to +10.0)" in page, "general text got worse"
    assert "(nothing)" in page

    tables = (tmp_path / "out" / "report.md").read_text()
    assert "| **domain** | " in tables
    assert "| mqp† | domain | accuracy | 200 | 50.0" in tables
    assert "+15.0 (" in tables
    assert "older than the corpus (2021)" in tables
    assert "| mqp | web | 3,048 | 3 | 7 |" in tables
    assert "| none | 1 of 1 | 1 of 1 | 0 of 1" in tables
    told = json.loads((tmp_path / "out" / "report.json").read_text())
    (task,) = told["tasks"]
    assert task["scores"]["adapted"]["difference"]["clear"]
    assert not task["scores"]["adapted@100"]["difference"]["clear"]


def test_what_a_reader_must_know_is_said(recipe, tmp_path):
    right = np.arange(50) % 2
    fixture = "fixture: 24 rows of this project's own writing, not the published data"
    models = [
        measured("base", 1.0, right, source=fixture),
        measured("adapted", 0.9, right, missing=["arc (adapted): no data"], source=fixture),
    ]
    for stream in models[0]["heldout"].values():
        stream["loss"] = math.log(32000)
    for model in models:
        for of in model["safety"]["rates"].values():
            for rate in of.values():
                rate["declined"] = 0
    told = findings(models, recipe)
    said = " ".join(told["warnings"])
    assert "these are random weights" in said
    assert "mqp: asked on a few rows written for this project" in said
    assert "No model declines any request" in said
    assert told["missing"] == ["arc (adapted): no data"]
    assert write(str(tmp_path / "out"), models, recipe) == ["arc (adapted): no data"]
    assert "arc (adapted): no data" in (tmp_path / "out" / "report.html").read_text()
