"""Measures a model: its loss on held-out text, and its score on tasks.

MODEL is a run directory, a Hugging Face folder or a hub id. The streams whose held-out text is used are
those of the run's own recipe, or of a training recipe named after MODEL. Loss is nats per token of text;
bits per byte compares models with different tokenizers. Intervals are 95 % bootstrap over rows.

--tasks names files of evaluation/tasks (or YAML files of that shape), and --out gets a JSON file for each
as soon as it is finished; given again, the same command does what is missing. A Hugging Face model needs no
RECIPE for tasks. What a task needs, and what it cannot find, is said; the others are run.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

_FLAGS = (  # name, meaning, name of the value
    ("step", "measure this checkpoint of a run; default: the newest good one", "N"),
    ("json", "write the scores on held-out text to this file", "FILE"),
    ("tasks", "score these tasks, with commas between them", "NAMES"),
    ("data", "files of a task's own shape, NAME=FILE or NAME.SOURCE=FILE, with commas", "FILES"),
    ("out", "folder that gets a JSON file for every task", "DIR"),
    ("limit", "items of a task, at most, drawn by the seed; default: all", "N"),
    ("seed", "of the choice of items and examples; default: 0", "N"),
    ("chat", "put prompts through this chat template; `model` is the model's own", "NAME"),
    (
        "add_bos",
        "begin a prompt with BOS: true or false; default: as the model was trained",
        "BOOL",
    ),
    (
        "window",
        "tokens that a prompt and its answer may have; default: the model's, 4096 at most",
        "N",
    ),
    ("dtype", "of the arithmetic: auto, float32, bfloat16", "DTYPE"),
    ("reference_compatible", "use the published metrics, defects included", None),
    ("fixtures", "score this project's own small stand-ins for data that is not at hand", None),
)
_LONGEST = 4096


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    from configs.load import Flag, command, user_errors
    from configs.recipe import TrainRecipe
    from training.steps import CorruptCheckpoint

    flags = tuple(Flag(*flag) for flag in _FLAGS)
    words = list(sys.argv[1:] if argv is None else argv)
    with user_errors():
        words = _with_own_recipe(words)
        recipe, arguments = None, tuple(w for w in words if not w.startswith("-"))
        if len(arguments) == 1 and not {"-h", "--help", "--schema"} & set(words):
            told = _flags_alone(words)
        else:
            recipe, options = command(
                TrainRecipe, words, __doc__ or "", flags=flags, arguments=("MODEL",)
            )
            arguments, told = options.arguments, options.flags
        step = _whole(told, "step", least=0)
        try:
            return _measure_all(arguments[0], recipe, told, step)
        except CorruptCheckpoint as error:
            raise ValueError(str(error)) from error


def _measure_all(source: str, recipe: Any, told: dict[str, Any], step: int | None) -> int:
    """Held-out text where there is a recipe, then the tasks; 1 when something could not be measured."""
    failed: list[str] = []
    if recipe is not None:
        try:
            scores = measure(source, recipe, step=step)
        except ValueError as error:
            if not told["tasks"] or str(error).startswith(("MODEL", "--step")):
                raise
            print(f"held-out text: {error}", file=sys.stderr)
            failed.append("held-out text")
        else:
            _print(scores)
            if told["json"]:
                from etils import epath

                epath.Path(told["json"]).write_text(json.dumps(scores, indent=2) + "\n")
    if told["tasks"]:
        failed += run_tasks(source, recipe, told, step)
    if failed:
        print(f"not measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run_tasks(source: str, recipe: Any, told: dict[str, Any], step: int | None) -> list[str]:
    """Scores the tasks that are not finished yet; returns the names of those that could not be.

    Raises:
        ValueError: a flag is wrong, a task's file is, or the model cannot be opened.
    """
    import dataclasses

    from evaluation.options import Scorer
    from evaluation.results import finished, write_result
    from evaluation.source import open_model
    from evaluation.task import load_task
    from evaluation.taskrun import open_items, run_task, settings_of
    from tpu.config import MeshConfig
    from tpu.mesh import make_mesh
    from tpu.runtime import start

    if not told["out"]:
        raise ValueError("--out: missing; name the folder that gets the scores of --tasks")
    tasks = [load_task(name.strip()) for name in str(told["tasks"]).split(",") if name.strip()]
    twice = {t.name for t in tasks if sum(t.name == other.name for other in tasks) > 1}
    if twice:
        raise ValueError(f"--tasks: {', '.join(sorted(twice))} is named twice")
    data = _files(told["data"], [task.name for task in tasks])
    limit, seed = _whole(told, "limit", least=1), _whole(told, "seed", least=0) or 0
    start()
    mesh = make_mesh(recipe.mesh if recipe is not None else MeshConfig())
    model = open_model(source, mesh, step=step)
    if told["add_bos"] is not None:
        if told["add_bos"] not in ("true", "false"):
            raise ValueError(f"--add_bos: {told['add_bos']!r} is neither true nor false")
        model = dataclasses.replace(model, add_bos=told["add_bos"] == "true")
    chat = _chat(told["chat"], model)
    if (dtype := told["dtype"] or "auto") not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"--dtype: {dtype!r} is none of auto, float32, bfloat16")
    window = _whole(told, "window", least=8) or min(model.config.max_seq_len, _LONGEST)
    scorer = Scorer(
        model.config,
        mesh,
        model.plan.specs,
        max_len=window,
        compute_dtype=dtype,
        bos_id=model.tokenizer.bos_id,
    )
    generate = _writer(model, window, chat, scorer.compute_dtype)
    failed = []
    print(f"{'task':<14}  {'metric':<20}  {'value':>7}  {'95 % interval':>17}  {'items':>6}")
    for task in tasks:
        try:
            shape, file = data.get(task.name, (None, None))
            fixtures = bool(told["fixtures"]) and file is None
            items = open_items(task, fixtures=fixtures, path=file, source=shape)
            asked: dict[str, Any] = {
                "chat": chat,
                "limit": limit,
                "seed": seed,
                "reference_compatible": bool(told["reference_compatible"]),
            }
            result = finished(
                told["out"], task.name, settings_of(task, model, scorer, items, **asked)
            )
            if result is None:
                result = run_task(task, items, model, scorer, generate, **asked)
                if _first_process():
                    write_result(told["out"], result)
        except ValueError as error:
            print(f"{task.name}: {error}", file=sys.stderr)
            failed.append(task.name)
        else:
            _print_result(result)
    return failed


def measure(source: str, recipe: Any, *, step: int | None = None) -> dict[str, Any]:
    """Held-out loss and bits per byte of a model on a recipe's streams."""
    from data.loader import has_heldout
    from evaluation.heldout import score_streams
    from evaluation.source import open_model
    from tpu.mesh import check_rows, make_mesh
    from tpu.runtime import start

    start()
    mesh = make_mesh(recipe.mesh)
    run = recipe.train
    # Before the weights are read.
    check_rows(recipe.eval_rows, 1, mesh, field="eval.batch_rows")
    model = open_model(
        source,
        mesh,
        step=step,
        max_seq_len=run.seq_len,
        vocab_multiple=recipe.model.vocab_multiple,
    )
    for name, stream in recipe.streams.items():
        if not has_heldout(stream.path):
            print(f"{name}: no held-out text in {stream.path}; not measured")
    scores, anew, kernel = score_streams(model, recipe)
    streams = {
        name: {
            "loss": score.loss,
            "bits_per_byte": score.bits_per_byte,
            "bits_per_byte_interval": score.interval(),
            "tokens": score.tokens,
            "bytes": score.num_bytes,
            "tokenized_anew": name in anew,
        }
        for name, score in scores.items()
    }
    return {
        "model": model.name,
        "step": model.step,
        "add_bos": model.add_bos,
        "tokenizer": model.tokenizer.fingerprint,
        "compute_dtype": run.compute_dtype,
        "attention": kernel,
        "streams": streams,
    }


def _with_own_recipe(words: list[str]) -> list[str]:
    """MODEL alone means the recipe that the run was made with; for tasks alone it needs none."""
    words = _joined(words)
    plain = [i for i, w in enumerate(words) if not w.startswith("-") and "=" not in w]
    if len(plain) == 1:
        from etils import epath

        model = words[plain[0]]
        own = epath.Path(model) / "recipe.yaml"
        tasks = any(word.partition("=")[0].lstrip("-") == "tasks" for word in words)
        if own.exists():
            words.insert(plain[0] + 1, str(own))
        elif not tasks and not {"-h", "--help", "--schema"} & set(words):
            raise ValueError(
                f"RECIPE: missing; {model} has no recipe.yaml as a run directory has, so name the training "
                f"recipe whose held-out text is measured: python -m evaluation.run {model} RECIPE "
                "(for --tasks alone it is not needed)"
            )
    return words


def _joined(words: list[str]) -> list[str]:
    """`--name value` as `--name=value`, so that a value is never taken for MODEL."""
    taking = {name for name, _, value in _FLAGS if value}
    joined, left = [], list(words)
    while left:
        word = left.pop(0)
        if word.lstrip("-") in taking and word.startswith("--") and left:
            word = f"{word}={left.pop(0)}"
        joined.append(word)
    return joined


def _flags_alone(words: list[str]) -> dict[str, Any]:
    """The flags of a command line without a recipe."""
    from configs.load import RecipeError

    told: dict[str, Any] = dict.fromkeys(name for name, _, _ in _FLAGS)
    takes = {name: value for name, _, value in _FLAGS}
    for word in words:
        if word.startswith("-"):
            name, has_value, value = word.lstrip("-").partition("=")
            if name not in takes:
                raise RecipeError(f"--{name}: unknown; there are --{', --'.join(takes)}")
            if bool(takes[name]) != bool(has_value):
                needs = (
                    f"needs a value: --{name}={takes[name]}" if takes[name] else "takes no value"
                )
                raise RecipeError(f"--{name}: {needs}")
            told[name] = value if has_value else True
    return told


def _whole(told: dict[str, Any], name: str, *, least: int) -> int | None:
    text = told[name]
    if text is not None and (not text.isdecimal() or int(text) < least):
        article = "no step" if name == "step" else f"not {least} or more"
        raise ValueError(f"--{name}: {text!r} is {article}; write a whole number, as --{name}=500")
    return None if text is None else int(text)


def _files(text: str | None, tasks: list[str]) -> dict[str, tuple[str | None, str]]:
    """What --data says: by task the source whose columns a file has (None: the first), and the file."""
    found = {}
    for part in (text or "").split(",") if text else ():
        name, has_file, file = part.partition("=")
        task, _, shape = name.strip().partition(".")
        if not has_file or not file or task not in tasks:
            raise ValueError(
                f"--data: {part!r} is not NAME=FILE with NAME of --tasks ({', '.join(tasks)})"
            )
        found[task] = (shape or None, file)
    return found


def _chat(name: str | None, model: Any) -> Any:
    from data.chat import ChatConfig

    if name is None:
        return None
    return model.chat if name == "model" else ChatConfig(template=name)


def _writer(model: Any, window: int, chat: Any, dtype: Any) -> Callable[..., Any]:
    """What writes answers, made when the first one is asked for: it copies the weights to one device."""
    import functools

    @functools.cache
    def engine() -> Any:
        import jax

        from evaluation.writer import open_writer
        from model.config import GenerationConfig

        if jax.process_count() > 1:
            raise ValueError(
                "tasks that write answers are run by one process; start it on one host"
            )
        settings = GenerationConfig(window=window, long_prompts="cut", compute_dtype=dtype)
        return open_writer(model, jax.local_devices()[:1], settings, chat=chat)

    return lambda prompts: engine().generate(prompts)


def _first_process() -> bool:
    import jax

    return jax.process_index() == 0


def _print_result(result: Any) -> None:
    low, high = result.interval
    notes = [f"{result.truncated} cut"] if result.truncated else []
    notes += [f"{result.unparsed} unparsed"] if result.unparsed else []
    notes += ["fixture"] if result.source.startswith("fixture") else []
    said = f"  ({', '.join(notes)})" if notes else ""
    print(
        f"{result.task:<14}  {result.metric:<20}  {result.value:7.4f}  {low:8.4f}-{high:8.4f}  "
        f"{result.items:6,}{said}",
        flush=True,
    )


def _print(scores: dict[str, Any]) -> None:
    print(f"{scores['model']}" + (f", step {scores['step']}" if scores["step"] is not None else ""))
    width = max((len(name) for name in scores["streams"]), default=6)
    print(
        f"{'stream':<{width}}  {'loss':>8}  {'bits/byte':>9}  {'95 % interval':>17}  {'tokens':>9}"
    )
    for name, s in scores["streams"].items():
        ends = s["bits_per_byte_interval"]
        told = f"{ends[0]:8.4f}-{ends[1]:8.4f}" if ends else "too few rows"
        print(
            f"{name:<{width}}  {s['loss']:8.4f}  {s['bits_per_byte']:9.4f}  {told:>17}  {s['tokens']:9,}"
        )


if __name__ == "__main__":
    sys.exit(main())
