"""What the measured parts of a report say: every figure beside the base's, with its difference and interval.

`findings` gives one plain dictionary, which is report.json; the page and the tables are drawn from it and
compute nothing.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from evaluation.comparison import Rows, loss_change, score_difference, share_difference
from evaluation.config import KINDS
from evaluation.results import TaskResult
from evaluation.safety import KINDS as ASKED

Measured = Mapping[str, Any]  # what `evaluation.measuring.Measuring.measure` gives
_UNIFORM = 0.97  # of the loss of a guess among all tokens, from which weights are called random


def findings(measured: Sequence[Measured], recipe: Any) -> dict[str, Any]:
    """The whole report as figures.

    Args:
        measured: the models' parts, the base first.
        recipe: the training recipe that they were measured by.
    """
    base, others = measured[0], measured[1:]
    settings = recipe.eval.report
    tasks = _tasks(measured, "tasks", settings)
    found = {
        "models": [
            {"label": m["label"], "model": m["model"], "step": m["step"], "facts": m["facts"]}
            for m in measured
        ],
        "losses": _losses(base, others),
        "kinds": _kinds(base, others),
        "tasks": tasks,
        "finetuned": _tasks(measured, "finetuned", settings),
        "contamination": _contamination(recipe),
        "safety": _safety(base, others),
        "answers": _answers(measured),
        "missing": [line for m in measured for line in m["missing"]],
    }
    return found | {"warnings": _warnings(found, base, recipe)}


def _losses(base: Measured, others: Sequence[Measured]) -> list[dict[str, Any]]:
    """Stream by stream, in the order of kinds."""
    order = {kind: place for place, kind in enumerate((*KINDS, "other"))}
    names = sorted(base["heldout"], key=lambda name: order[base["heldout"][name]["kind"]])
    return [
        {
            "stream": name,
            "kind": base["heldout"][name]["kind"],
            "base": _loss(base["heldout"][name]),
            "models": {
                m["label"]: _loss(m["heldout"][name])
                | {"change": _told(loss_change(_rows([base], [name]), _rows([m], [name])))}
                for m in others
                if name in m["heldout"]
            },
        }
        for name in names
    ]


def _kinds(base: Measured, others: Sequence[Measured]) -> list[dict[str, Any]]:
    """The streams of a kind together, each byte of text counting alike."""
    rows = []
    for kind in KINDS:
        names = [name for name, s in base["heldout"].items() if s["kind"] == kind]
        if names:
            before = _rows([base], names)
            models = {}
            for m in others:
                after = _rows([m], names)
                change = _told(loss_change(before, after))
                models[m["label"]] = {"bits_per_byte": after.bits_per_byte, "change": change}
            told = {"kind": kind, "streams": names, "base": before.bits_per_byte}
            rows.append(told | {"models": models})
    return rows


def _rows(of: Sequence[Measured], names: Sequence[str]) -> Rows:
    streams = [m["heldout"][name] for m in of for name in names]
    return Rows(
        np.concatenate([np.array(s["row_nats"], float) for s in streams]),
        np.concatenate([np.array(s["row_bytes"], np.int64) for s in streams]),
    )


def _loss(stream: Mapping[str, Any]) -> dict[str, Any]:
    return {key: stream[key] for key in ("loss", "bits_per_byte", "interval", "tokenized_anew")}


def _tasks(measured: Sequence[Measured], part: str, settings: Any) -> list[dict[str, Any]]:
    """Task by task: scores of all models that have one, and differences where the base has one too."""
    rows = []
    groups = dict.fromkeys(settings.general_tasks, "general")
    groups |= dict.fromkeys(settings.domain_tasks, "domain")
    names = dict.fromkeys(name for m in measured for name in m.get(part, {}))
    for name in names:
        results = {m["label"]: _result(m[part][name]) for m in measured if name in m.get(part, {})}
        base = results.get(measured[0]["label"])
        first = next(iter(results.values()))
        scores = {}
        for label, result in results.items():
            score: dict[str, Any] = {
                "value": result.value,
                "interval": list(result.interval),
                "items": result.items,
                "truncated": result.truncated,
                "unparsed": result.unparsed,
                "template": result.template,
                "add_bos": result.add_bos,
            }
            prompted = next(m for m in measured if m["label"] == label)[part][name].get("prompted")
            if prompted:  # the same items, asked of the model that nobody tuned
                score["prompted"] = {key: prompted[key] for key in ("value", "interval", "shots")}
            if base is not None and result is not base:
                score["difference"] = _told(score_difference(base, result))
            scores[label] = score
        date, corpus = first.date, settings.corpus_date
        rows.append(
            {
                "task": name,
                "group": groups.get(name, "domain"),
                "metric": first.metric,
                "shots": first.shots,
                "source": first.source,
                "fixture": first.source.startswith("fixture"),
                "date": date,
                "older": None if date is None or corpus is None else _before(date, corpus),
                "expected_rows": first.expected_rows,
                "chance": _chance(first),
                "scores": scores,
                "samples": _samples(results),
            }
        )
    return rows


def _result(told: Mapping[str, Any]) -> TaskResult:
    return TaskResult.from_json(json.dumps({k: v for k, v in told.items() if k != "prompted"}))


def _samples(results: Mapping[str, TaskResult]) -> list[dict[str, Any]]:
    """The items that all models show, side by side."""
    by_model = {label: {s["id"]: s for s in r.samples} for label, r in results.items()}
    first = next(iter(by_model.values()))
    return [
        {
            **{key: sample.get(key) for key in ("id", "prompt", "options", "gold")},
            "answers": {
                label: some[id_].get("chosen", some[id_].get("text"))
                for label, some in by_model.items()
            },
        }
        for id_, sample in first.items()
        if all(id_ in some for some in by_model.values())
    ]


def _chance(result: TaskResult) -> float | None:
    """What a guess would score, from the options of the sampled items."""
    sizes = [len(s["options"]) for s in result.samples if s.get("options")]
    if not sizes or result.metric not in ("accuracy", "micro_f1"):
        return None
    return float(np.mean([1 / size for size in sizes]))


def _before(date: str, corpus: str) -> bool:
    """Whether a date lies before another; what is known no closer than a year or month may be equal."""
    shortest = min(len(date), len(corpus))
    return date[:shortest] <= corpus[:shortest]


def _contamination(recipe: Any) -> list[dict[str, Any]]:
    """Test items found in the streams' corpora, as their cards say."""
    rows = []
    for name, stream in recipe.streams.items():
        file = epath.Path(stream.path) / "card.json"
        card = json.loads(file.read_text()) if file.exists() else {}
        for task, counts in (card.get("contamination") or {}).items():
            told = {key: counts.get(key) for key in ("items", "found", "documents", "context_only")}
            rows.append({"stream": name, "task": task, **told})
    return rows


def _safety(base: Measured, others: Sequence[Measured]) -> dict[str, Any] | None:
    if "safety" not in base:
        return None
    differences = {
        m["label"]: {
            template: {
                kind: _told(
                    share_difference(_declined(base, template, kind), _declined(m, template, kind))
                )
                for kind in ASKED
            }
            for template in base["safety"]["rates"]
        }
        for m in others
    }
    return {
        "about": base["safety"]["about"],
        "rates": {m["label"]: m["safety"]["rates"] for m in (base, *others)},
        "differences": differences,
        "replies": _replies([base, *others]),
    }


def _declined(model: Measured, template: str, kind: str) -> list[bool]:
    replies = model["safety"]["replies"]
    return [r["declined"] for r in replies if r["template"] == template and r["kind"] == kind]


def _replies(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Two requests as every model answers them through the first and the last template."""
    replies = measured[0]["safety"]["replies"]
    templates = list(dict.fromkeys(r["template"] for r in replies))
    requests = list(dict.fromkeys(r["request"] for r in replies))[:2]
    shown = [
        i
        for i, r in enumerate(replies)
        if r["template"] in (templates[0], templates[-1]) and r["request"] in requests
    ]
    return [
        {key: replies[i][key] for key in ("template", "request", "kind", "prompt")}
        | {"texts": {m["label"]: m["safety"]["replies"][i]["text"] for m in measured}}
        | {"declined": {m["label"]: m["safety"]["replies"][i]["declined"] for m in measured}}
        for i in shown
    ]


def _answers(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    return [
        {key: answer[key] for key in ("stream", "prompt", "reference")}
        | {"texts": {m["label"]: m["answers"][i]["text"] for m in measured}}
        for i, answer in enumerate(measured[0].get("answers", []))
    ]


def _warnings(found: Mapping[str, Any], base: Measured, recipe: Any) -> list[str]:
    """What a reader must know before believing a figure."""
    warnings = []
    facts = base["facts"]
    losses = [stream["loss"] for stream in base["heldout"].values()]
    if min(losses) > _UNIFORM * math.log(facts["vocab_size"]):
        warnings.append(
            f"The base guesses among all {facts['vocab_size']:,} tokens (loss {min(losses):.2f} at best): these "
            "are random weights. Differences to it show that something was learned, not what adaptation gained."
        )
    tasks = [*found["tasks"], *found["finetuned"]]
    if made := sorted({t["task"] for t in tasks if t["fixture"]}):
        warnings.append(
            f"{', '.join(made)}: asked on a few rows written for this project. The scores say that the task runs "
            "and nothing about the model."
        )
    report = recipe.eval.report
    if tasks and report.corpus_date is None:
        warnings.append(
            "The corpus has no date (eval.report.corpus_date), so tasks that it may already hold are not marked."
        )
    if old := sorted({t["task"] for t in tasks if t["older"]}):
        warnings.append(
            f"{', '.join(old)}: older than the corpus ({report.corpus_date}), which may hold their items."
        )
    checked = {row["task"] for row in found["contamination"]}
    if unchecked := sorted({t["task"] for t in found["tasks"]} - checked):
        warnings.append(
            f"{', '.join(unchecked)}: the streams' cards do not say whether their items were looked for in the "
            "corpora (clean.decontaminate of the preparation recipe)."
        )
    unpaired = [
        row["stream"]
        for row in found["losses"]
        if any(not m["change"]["paired"] for m in row["models"].values())
    ]
    if unpaired:
        warnings.append(
            f"{', '.join(unpaired)}: the models have different tokenizers, so rows do not correspond and the "
            "intervals of the change are wider than they would be."
        )
    if not (recipe.eval.streams.domain or recipe.eval.streams.general):
        warnings.append(
            "No stream is said to be of the domain or general (eval.streams), so gain and forgetting are not told "
            "apart."
        )
    if safety := found["safety"]:
        rates = [r["decline"] for of in safety["rates"].values() for r in of.values()]
        if not any(rate["declined"] for rate in rates):
            empty = sum(r["empty"] for r in rates) / max(sum(r["asked"] for r in rates), 1)
            warnings.append(
                "No model declines any request through any template, so the matrix cannot show that declining got "
                f"rarer ({100 * empty:.0f} % of the replies are empty)."
            )
    bos = {m["facts"]["add_bos"] for m in found["models"]}
    if len(bos) > 1:
        warnings.append("Some models begin a text with BOS and others do not, as each was trained.")
    return warnings


def _told(difference: Any) -> dict[str, Any]:
    return dataclasses.asdict(difference) | {"clear": difference.is_clear}
