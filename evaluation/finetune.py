"""Tunes a model on a task's train split, then asks it the test split: what the papers call fine-tuning evaluation.

MODEL is a run directory, a Hugging Face folder or a hub id. The train split becomes one packed stream, prompt and right answer as
the task asks them, and train.py trains on it in a run directory of its own: one epoch, no warm-up,
one fixed prompt, no examples, the rest as in RECIPE (default: the one that MODEL was made with), which
is how AdaptLLM does it. Beside the tuned score stands that of MODEL as it is, on the same items.

A task says where its train split is by sources named `train` and `test` in its file. --out gets the
stream, the run and both results; a command that was stopped goes on where it was.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from data.benchmarks import Item
from data.chat import ChatConfig
from evaluation.options import Scorer
from evaluation.prompt import Question, ask, written
from evaluation.results import TaskResult
from evaluation.source import Model, open_model
from evaluation.task import Task, load_task
from evaluation.taskrun import Items, open_items, run_task

Loss = Literal["all", "answer"]


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    from configs.load import Flag, command, user_errors
    from configs.recipe import TrainRecipe
    from evaluation.parts import Parts
    from training.steps import CorruptCheckpoint

    flags = (
        Flag("task", "name or file of the task", "NAME"),
        Flag("out", "folder of the stream, the run and the results", "DIR"),
        Flag("loss", "all (as in continued pre-training, the default) or answer", "KIND"),
        Flag("limit", "test items at most", "N"),
    )
    words = list(sys.argv[1:] if argv is None else argv)
    with user_errors():
        words = _with_own_recipe(words)
    recipe, options = command(TrainRecipe, words, __doc__ or "", flags=flags, arguments=("MODEL",))
    with user_errors():
        told = options.flags
        for name in ("task", "out"):
            if not told[name]:
                raise ValueError(f"--{name}: missing; see --help")
        loss, limit = told["loss"] or "all", told["limit"]
        if loss not in ("all", "answer"):
            raise ValueError(f"--loss: {loss!r} is neither all nor answer")
        if limit is not None and not limit.isdecimal():
            raise ValueError(f"--limit: {limit!r} is no whole number")
        source, limit = options.arguments[0], int(limit) if limit else None
        task = load_task(told["task"])
        if options.dry_run:
            train, test = splits(task)
            print(
                f"{task.name}: {len(train.items):,} items to train on, {len(test.items):,} to ask"
            )
            return 0
        try:
            tuned = tuned_score(source, task, recipe, told["out"], loss=loss, limit=limit)
            parts = Parts(told["out"], ".", of={"model": source})
            settings = {"definition": task.definition, "limit": limit}
            prompted = parts.get(
                "prompted",
                settings,
                lambda: dataclasses.asdict(_as_it_is(source, task, recipe, limit)),
            )
        except CorruptCheckpoint as error:
            raise ValueError(str(error)) from error
        for name, value in (("as it is", prompted), ("tuned", dataclasses.asdict(tuned))):
            low, high = value["interval"]
            shots = f", {value['shots']} examples" if value["shots"] else ""
            print(
                f"{task.name} {name:<9} {value['metric']} {value['value']:.4f} ({low:.4f}-{high:.4f}), "
                f"{value['items']:,} items{shots}"
            )
    return 0


def tuned_score(
    source: str,
    task: Task,
    recipe: Any,
    out: str,
    *,
    loss: Loss = "all",
    limit: int | None = None,
    chat: bool = False,
    tokenizer: str | None = None,
) -> TaskResult:
    """The score on the test split after one epoch of the train split.

    Args:
        source: the model; of a run its newest good step.
        task: which.
        recipe: a training recipe (`configs.recipe.TrainRecipe`): all that this does not change.
        out: gets `data`, `run` and `tuned.json`.
        loss: which tokens are learned.
        limit: test items at most.
        chat: prompts through the model's chat template.
        tokenizer: of a model that has none beside it.

    Raises:
        ValueError: the task has no train split, or what data.prepare and train.py say.
    """
    from evaluation.parts import Parts
    from tpu.mesh import make_mesh
    from tpu.runtime import start

    start()
    fixed = task.model_copy(update={"prompts": task.prompts[:1], "shots": 0})
    train, test = splits(fixed)
    parts = Parts(out, ".", of={"model": source})
    settings = {"definition": fixed.definition, "loss": loss, "limit": limit, "chat": chat}

    def measure() -> dict[str, Any]:
        run_dir = _tune(source, fixed, train.items, recipe, out, loss, chat, tokenizer)
        mesh = make_mesh(recipe.mesh)
        model = open_model(run_dir, mesh)
        result = _ask(model, fixed, test, recipe, limit=limit, chat=chat)
        return dataclasses.asdict(dataclasses.replace(result, model=source))

    return TaskResult.from_json(json.dumps(parts.get("tuned", settings, measure)))


def splits(task: Task) -> tuple[Items, Items]:
    """The items to train on and those to ask.

    Raises:
        ValueError: the task has no such sources, or an item is in both.
    """
    try:
        train, test = open_items(task, source="train"), open_items(task, source="test")
    except ValueError as error:
        raise ValueError(
            f"{error} (tuning needs sources named train and test in the task's file)"
        ) from error
    both = {item.question + item.context for item in train.items}
    shared = [item.id for item in test.items if item.question + item.context in both]
    if shared:
        raise ValueError(
            f"task {task.name}: {len(shared)} items are in both train and test, such as {shared[0]}; set "
            "`where` of the two sources so that they exclude each other"
        )
    return train, test


def exchange(question: Question, task: Task) -> tuple[str, str]:
    """An item's prompt and right answer, as a fixed template writes them."""
    item = question.item
    if task.kind != "options":
        return question.prompts[0][-1].text, item.answers[0]
    gold = item.gold[0]
    in_prompts = len(question.prompts) > 1  # the options are
    prompt = question.prompts[gold if in_prompts else 0][-1].text
    return prompt, question.answers[0] if in_prompts else written(task, item.options[gold])


def _tune(
    source: str,
    task: Task,
    items: Sequence[Item],
    recipe: Any,
    out: str,
    loss: Loss,
    chat: bool,
    tokenizer: str | None,
) -> str:
    """Packs the train split and trains on it; the run's directory."""
    import train
    from configs.load import recipe_yaml
    from configs.recipe import TrainRecipe
    from data.config import CorpusConfig, FieldsConfig, HeldOutConfig, PrepareConfig
    from data.prepare import prepare
    from data.tokenizer import load_tokenizer
    from training.state import is_run
    from training.steps import newest_meta

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    meta = newest_meta(source) if is_run(source) else None
    beside = tokenizer or (f"{source}/tokenizer" if meta else source)
    loaded = load_tokenizer(beside)
    add_bos = meta["tokenizer"]["add_bos"] if meta and meta.get("tokenizer") else loaded.add_bos
    data = folder / "data" / "train"
    if not (data / "stream.json").exists():
        rows = [exchange(q, task) for q in ask(items, (), task) if q.item.answers]
        lines = [json.dumps({"prompt": p, "response": r}, ensure_ascii=False) for p, r in rows]
        (folder / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        template = _template(meta, loaded, add_bos) if chat else "plain"
        corpus = CorpusConfig(
            path=str(folder / "train.jsonl"),
            fields=FieldsConfig(prompt="prompt", response="response"),
            convert="conversation",
            chat=ChatConfig(
                template=template,
                train_on="all" if loss == "all" else "assistant",
                system=task.system if chat else None,
            ),
        )
        prepare(
            PrepareConfig(
                out_dir=str(folder / "data"),
                tokenizer=beside,
                seq_len=recipe.train.seq_len,
                add_bos=add_bos,
                heldout=HeldOutConfig(fraction=0.0),
                clean=None,
                partitions=1,
                workers=1,
                corpora={"train": corpus},
            )
        )
    num_rows = json.loads((data / "stream.json").read_text())["num_rows"]
    run_dir = str(folder / "run")
    one_epoch = TrainRecipe.model_validate(
        _one_epoch(recipe, source, run_dir, beside, data, num_rows)
    )
    path = folder / "recipe.yaml"
    path.write_text(recipe_yaml(one_epoch))
    done = newest_meta(run_dir) if is_run(run_dir) else None
    if done is None or done["step"] < one_epoch.train.num_steps:
        code = train.main([str(path)])
        if code:
            raise SystemExit(code)  # told to go: the same command goes on
    return run_dir


def _one_epoch(
    recipe: Any, source: str, run_dir: str, tokenizer: str, data: Path, num_rows: int
) -> dict[str, Any]:
    """The recipe with another stream, one epoch of it, and no warm-up."""
    told = recipe.model_dump(mode="json")
    steps = -(-num_rows // recipe.train.global_batch_rows)
    given = {key: value for key, value in told["model"].items() if key == "vocab_multiple"}
    return told | {
        "run_dir": run_dir,
        "prepare": None,
        "model": given | {"init_from": source},
        "tokenizer": tokenizer,
        "streams": {"train": {"path": str(data)}},
        "mixture": {},
        "train": told["train"] | {"num_steps": steps, "stop_on_spike": None},
        "optimizer": told["optimizer"]
        | {"warmup_steps": 0, "warmup_from": 0.0, "schedule_steps": None, "decay_steps": None},
        "checkpoint": told["checkpoint"] | {"keep": 1, "keep_every": None},
        "eval": {"every_steps": steps},
        "resume": {},
        "tracking": told["tracking"] | {"profile": None, "wandb": None},
        "export": None,
    }


def _as_it_is(source: str, task: Task, recipe: Any, limit: int | None) -> TaskResult:
    """The score of the model that nobody tuned, asked as the task asks."""
    from tpu.mesh import make_mesh

    model = open_model(source, make_mesh(recipe.mesh), vocab_multiple=recipe.model.vocab_multiple)
    return _ask(model, task, open_items(task, source="test"), recipe, limit=limit, chat=False)


def _ask(
    model: Model, task: Task, items: Items, recipe: Any, *, limit: int | None, chat: bool
) -> TaskResult:
    from model.engine import Engine

    scorer = Scorer(
        model.config,
        model.plan.mesh,
        model.plan.specs,
        compute_dtype=recipe.train.compute_dtype,
        bos_id=model.tokenizer.bos_id,
    )
    generate = None
    if task.kind != "options":
        if model.plan.mesh.size > 1:
            raise ValueError(
                f"task {task.name}: writes its answers, which is done on one device; set mesh.fsdp=1 "
                "and run it where one device is seen"
            )
        generate = Engine(
            model.params,
            model.config,
            model.tokenizer,
            chat=model.chat,
            add_bos=model.add_bos,
            stop_tokens=model.stop_tokens,
        ).generate
    return run_task(
        task, items, model, scorer, generate, chat=model.chat if chat else None, limit=limit
    )


def _template(meta: dict[str, Any] | None, tokenizer: Any, add_bos: bool) -> str:
    from model.export import chat_of

    chat, _ = chat_of(meta or {}, tokenizer, add_bos)
    return chat.template


def _with_own_recipe(words: list[str]) -> list[str]:
    """MODEL alone means the recipe that the run was made with."""
    plain = [
        i
        for i, w in enumerate(words)
        if not w.startswith("-")
        and "=" not in w
        and not (i and words[i - 1] in ("--task", "--out", "--loss", "--limit"))
    ]
    if len(plain) == 1 and not {"-h", "--help", "--schema"} & set(words):
        model = words[plain[0]]
        own = Path(model) / "recipe.yaml"
        if not own.exists():
            raise ValueError(
                f"RECIPE: missing; {model} has no recipe.yaml as a run directory has, so name the "
                "training recipe whose settings are used"
            )
        words.insert(plain[0] + 1, str(own))
    return words


if __name__ == "__main__":
    sys.exit(main())
