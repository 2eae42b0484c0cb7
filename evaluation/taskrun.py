"""Runs one task on one model: items, prompts, scores, metrics.

    scorer = Scorer(model.config, mesh, model.plan.specs, bos_id=model.tokenizer.bos_id)
    items = open_items(task)
    result = run_task(task, items, model, scorer)

A training run measures its live state with one scorer and without compiling anew by
`dataclasses.replace(model, params=state.params, step=step)`.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.benchmarks import Item, choose, read_items
from data.chat import ChatConfig, encode_prompt
from data.generator import Generate, Prompt, Sampling
from evaluation import answers, exam, metrics
from evaluation.encode import encode_questions
from evaluation.metrics import Outcome
from evaluation.options import Scorer
from evaluation.prompt import Question, ask, choose_items
from evaluation.results import TaskResult
from evaluation.source import Model
from evaluation.task import Task, fixture_of

_SAMPLES = 8  # items shown with a result


@dataclass(frozen=True)
class Items:
    """A task's items, and where they are from.

    Attributes:
        items: all of them.
        source: the place, for people.
        rendered: whether the questions are whole prompts already, examples included.
        expected: how many there should be, None where nobody says.
    """

    items: tuple[Item, ...]
    source: str
    rendered: bool
    expected: int | None


def open_items(
    task: Task, *, fixtures: bool = False, path: str | None = None, source: str | None = None
) -> Items:
    """Reads a task's items.

    Args:
        task: which.
        fixtures: read the rows of this project's own writing instead; the source says so.
        path: read this file instead of the task's own place.
        source: the source that is meant, or whose columns `path` has.

    Raises:
        ValueError: there is no data, or a column or rows are missing; the message says what to do.
    """
    if fixtures:
        found = fixture_of(task)
        source = task.fixture_shape
        name, _ = choose(task.path, path=str(found), source=source)
        items = tuple(read_items(task.path, path=str(found), source=source))
        told = f"fixture: {len(items)} rows of this project's own writing, not the published data"
        return Items(items, told, name in task.rendered, None)
    name, chosen = choose(task.path, path=path, source=source)
    items = tuple(read_items(task.path, path=path, source=source))
    return Items(items, f"{name}: {chosen.shown}", name in task.rendered, chosen.rows)


def settings_of(
    task: Task,
    model: Model,
    scorer: Scorer,
    items: Items,
    *,
    chat: ChatConfig | None = None,
    limit: int | None = None,
    seed: int = 0,
    reference_compatible: bool = False,
) -> dict[str, Any]:
    """All that a result depends on, for `evaluation.results.finished`."""
    shots = (task.published_shots or 0) if items.rendered else task.shots
    return {
        "model": model.name,
        "step": model.step,
        "add_bos": model.add_bos,
        "template": chat.template if chat else None,
        "system": (task.system or chat.system) if chat else None,
        "shots": shots,
        "normalise": task.normalise,
        "metric": task.metric,
        "reference_compatible": reference_compatible,
        "source": items.source,
        "limit": limit,
        "seed": seed,
        "compute_dtype": scorer.compute_dtype,
        "definition": task.definition,
    }


def run_task(
    task: Task,
    items: Items,
    model: Model,
    scorer: Scorer,
    generate: Generate | None = None,
    *,
    chat: ChatConfig | None = None,
    limit: int | None = None,
    seed: int = 0,
    reference_compatible: bool = False,
) -> TaskResult:
    """The score of a model on the items of a task.

    Args:
        task: how they are asked and scored.
        items: from `open_items`.
        model: the weights and all that goes with them.
        scorer: of the model's shape, on its mesh.
        generate: writes answers; needed by tasks of kind text and exam. Its window is the scorer's.
        chat: put prompts through this template; None asks with running text.
        limit: items at most, drawn by the seed.
        seed: of the choice of items, examples and bootstrap.
        reference_compatible: use the published rules, defects included.

    Raises:
        ValueError: no items, nothing that writes answers, or a prompt that cannot be asked.
    """
    scored, examples = choose_items(
        items.items, task, limit=limit, seed=seed, rendered=items.rendered
    )
    questions = ask(scored, examples, task, chat=chat is not None, rendered=items.rendered)
    if task.kind == "options":
        outcomes, samples, cut = _choose(questions, task, model, scorer, chat, reference_compatible)
        unparsed = 0
    else:
        if generate is None:
            raise ValueError(
                f"task {task.name}: writes answers, so it needs something to write them"
            )
        texts = _write(questions, task, generate)
        add_bos, known = model.add_bos, chat or model.chat
        cut = sum(
            len(encode_prompt(q.prompts[0], model.tokenizer, known, add_bos=add_bos))
            >= scorer.max_len
            for q in questions
        )
        outcomes, unparsed = _judge(questions, texts, task, reference_compatible)
        samples = [_sample(q, text=text) for q, text in zip(questions, texts, strict=True)]
    names = tuple(dict.fromkeys((task.metric, *task.also)))
    found = metrics.measure(names, outcomes, reference_compatible=reference_compatible, seed=seed)
    settings = settings_of(
        task,
        model,
        scorer,
        items,
        chat=chat,
        limit=limit,
        seed=seed,
        reference_compatible=reference_compatible,
    )
    low, high = found[task.metric]["interval"]
    return TaskResult(
        task=task.name,
        **settings,
        value=found[task.metric]["value"],
        interval=(low, high),
        metrics=found,
        items=len(scored),
        expected_rows=items.expected or task.expected_rows,
        date=task.date,
        truncated=cut,
        unparsed=unparsed,
        per_item=metrics.per_item(task.metric, outcomes, reference_compatible=reference_compatible),
        samples=tuple(samples[:_SAMPLES]),
        ids=tuple(item.id for item in scored),
    )


# --- options --------------------------------------------------------------------------------------


def _choose(
    questions: Sequence[Question],
    task: Task,
    model: Model,
    scorer: Scorer,
    chat: ChatConfig | None,
    reference: bool,
) -> tuple[list[Outcome], list[dict[str, Any]], int]:
    """The likeliest option of every question; the first of equal ones."""
    asked, counts = encode_questions(
        questions,
        model.tokenizer,
        add_bos=model.add_bos,
        chat=chat,
        reference_compatible=reference,
    )
    found = iter(scorer.score(model.params, asked))
    outcomes, samples, cut = [], [], 0
    for question, count in zip(questions, counts, strict=True):
        entries = list(itertools.islice(found, count))
        logprobs = np.array([nats for entry in entries for nats in entry.logprobs])
        sizes = np.array([size for entry in entries for size in entry.tokens], float)
        if task.normalise == "byte":
            texts = question.answers * (len(logprobs) // len(question.answers))
            sizes = np.array([len(text.encode()) for text in texts], float)
        scores = logprobs if task.normalise == "none" else logprobs / sizes
        chosen = int(np.argmax(scores))
        cut += any(entry.cut for entry in entries)
        outcomes.append(_outcome(question.item, (chosen,)))
        if len(samples) < _SAMPLES:
            samples.append(
                _sample(question, chosen=chosen, scores=[round(float(s), 4) for s in scores])
            )
    return outcomes, samples, cut


def _outcome(item: Item, chosen: tuple[int, ...], **more: Any) -> Outcome:
    return Outcome(item.gold, item.options, chosen, item.group, item.kind, **more)


def _sample(question: Question, **more: Any) -> dict[str, Any]:
    item = question.item
    shown = [{"role": turn.role, "text": turn.text} for turn in question.prompts[0]]
    gold = list(item.gold) if item.options else list(item.answers)
    told = {"id": item.id, "prompt": shown[0]["text"] if len(shown) == 1 else shown}
    return told | {"options": list(question.options), "gold": gold, **more}


# --- written answers ------------------------------------------------------------------------------


def _write(questions: Sequence[Question], task: Task, generate: Generate) -> list[str]:
    """What the model writes, greedily.

    An answer that began with a stop string, a line break mostly, is asked for again without stop
    strings and cut behind its first line: the published evaluator took it for an empty answer.
    """

    def write(numbers: Sequence[int], stop: tuple[str, ...]) -> dict[int, Any]:
        sampling = Sampling(max_new_tokens=task.max_new_tokens, stop=stop)
        prompts = (Prompt(str(n), questions[n].prompts[0], sampling) for n in numbers)
        return {int(completion.id): completion for completion in generate(prompts)}

    done = write(range(len(questions)), task.stop)
    empty = [n for n, completion in done.items() if not completion.text.strip()]
    if empty and task.stop:
        again = write(empty, ())
        for n, completion in again.items():
            text = completion.text.lstrip()
            ends = [at for stop in task.stop if (at := text.find(stop)) >= 0]
            done[n] = dataclasses.replace(completion, text=text[: min(ends, default=len(text))])
    failed = [c for c in done.values() if c.finish == "error"]
    if failed:
        raise ValueError(
            f"task {task.name}: {len(failed)} prompts could not be continued; the first: "
            f"{failed[0].error}"
        )
    return [done[n].text for n in range(len(questions))]


def _judge(
    questions: Sequence[Question], texts: Sequence[str], task: Task, reference: bool
) -> tuple[list[Outcome], int]:
    """Written answers against the right ones, and how many could not be read."""
    outcomes, unparsed = [], 0
    for question, text in zip(questions, texts, strict=True):
        item = question.item
        if task.kind == "exam":
            letters = exam.read_letters(text, question.options)
            unparsed += letters is None
            if reference:
                letters = exam.reference_letters(text, question.options)
            outcomes.append(_outcome(item, letters or ()))
            continue
        golds = item.answers or ("",)
        counts = None
        if task.metric == "span_f1":
            value = max(
                (answers.reference_span_f1 if reference else answers.span_f1)(text, gold)
                for gold in golds
            )
            counts = answers.span_counts(text, golds[0])
        elif task.metric == "numeric_match":
            unparsed += not answers.numbers(text) and bool(answers.numbers(golds[0]))
            value = max(
                answers.reference_numeric_match(text, gold)
                if reference
                else answers.numeric_match(text, gold, which=task.number)
                for gold in golds
            )
        else:
            value = max(answers.exact_match(text, gold) for gold in golds)
        outcomes.append(_outcome(item, (), value=float(value), counts=counts))
    return outcomes, unparsed
