"""The measured parts of the adaptation report, model by model.

Weights are loaded when the first part that is missing needs them, and let go before the engine that
writes answers loads its own: two copies never lie on the devices together.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from data.generator import Sampling
from evaluation.comparison import wilson
from evaluation.finetune import splits, tuned_score
from evaluation.heldout import score_streams
from evaluation.options import Scorer
from evaluation.parts import Parts
from evaluation.safety import ask, load_matrix, rates
from evaluation.sample_answers import ANSWER, sample_answers
from evaluation.source import Model, open_model
from evaluation.task import Task, load_task
from evaluation.taskrun import Items, open_items, run_task
from evaluation.writer import open_writer
from model.config import GenerationConfig
from model.engine import Engine
from model.huggingface.load import fetch
from training.state import is_run
from training.steps import good_steps, read_meta

_WINDOW = 512  # tokens of a prompt and its answer
_LONG_WINDOW = 2048  # where tasks write their answers, after examples
_SAMPLES = 5  # items of a task that the page shows


class Measuring:
    """Measures models as a recipe's `eval` section says, keeping every part.

    Args:
        recipe: a training recipe (`configs.recipe.TrainRecipe`): streams, mesh, `eval`.
        out: the report's folder.
        fixtures: ask the rows of this project's own writing.

    Raises:
        ValueError: an unknown task or template, several processes.
    """

    def __init__(self, recipe: Any, out: str, *, fixtures: bool = False) -> None:
        from tpu.runtime import start

        start()
        if jax.process_count() > 1:
            raise ValueError(
                f"{jax.process_count()} processes: a report is made by one; run it on one host"
            )
        self._recipe, self._out, self._fixtures = recipe, out, fixtures
        self._report = recipe.eval.report
        names = (*self._report.domain_tasks, *self._report.general_tasks)
        self._tasks = {name: load_task(name) for name in dict.fromkeys(names)}
        safety = self._report.safety
        self._matrix = load_matrix(templates=safety.templates) if safety else None

    def plan(self, models: Sequence[Any]) -> list[str]:
        """What would be measured, and what is there."""
        lines = []
        for model in models:
            parts, _ = self._parts(model)
            lines.append(f"{model.label}: {model.source}")
            for name, settings in self._asked().items():
                there = parts.kept(name, settings) is not None
                lines.append(f"  {name}: {'there' if there else 'to be measured'}")
        return lines

    def measure(self, model: Any) -> dict[str, Any]:
        """All parts of a model (`evaluation.report.Named`); tasks without data are named in `missing`."""
        parts, step = self._parts(model)
        asked = self._asked()

        @functools.cache
        def opened() -> Model:
            used = self._tokenizer(model.source)
            said = f" with the tokenizer {used}, as it has none" if used else ""
            print(f"{model.label}: loading {model.source}{said}", flush=True)
            return self._open(model.source, step)

        record: dict[str, Any] = {"label": model.label, "model": model.source, "step": step}
        missing: list[str] = []
        record |= parts.get("heldout", asked["heldout"], lambda: self._heldout(opened()))
        tasks: dict[str, Any] = {}

        def ask_tasks(measure: Callable[[Task, Items], dict[str, Any]], *, write: bool) -> None:
            for name, task in self._tasks.items():
                if (task.kind != "options") != write:
                    continue
                said = parts.kept(f"tasks/{name}", asked[f"tasks/{name}"])
                if said is None:
                    try:
                        items = open_items(task, fixtures=self._fixtures)
                    except ValueError as error:
                        missing.append(f"{name} ({model.label}): {error}")
                        continue
                    some = functools.partial(measure, task, items)
                    said = parts.get(f"tasks/{name}", asked[f"tasks/{name}"], some)
                tasks[name] = said
                print(f"{model.label}: {name} {said['metric']} {said['value']:.4f}", flush=True)

        ask_tasks(lambda task, items: self._task(task, items, opened(), None), write=False)
        opened.cache_clear()

        @functools.cache
        def writing() -> tuple[Model, Engine]:
            return self._writing(model.source, step)

        def engine() -> Engine:
            return writing()[1]

        ask_tasks(lambda task, items: self._task(task, items, *writing()), write=True)
        if "answers" in asked:
            record["answers"] = parts.get(
                "answers",
                asked["answers"],
                lambda: {
                    "answers": sample_answers(engine(), self._domain(), each=self._report.answers)
                },
            )["answers"]
        if self._matrix is not None:
            record["safety"] = parts.get("safety", asked["safety"], lambda: self._safety(engine()))
        writing.cache_clear()
        tuned: dict[str, Any] = {}
        for name in self._report.finetune if model.step is None else ():
            key = f"finetuned/{name}"
            tuned[name] = parts.get(
                key, asked[key], functools.partial(self._tuned, name, model, step)
            )
            said = tuned[name]
            print(f"{model.label}: {name} tuned {said['metric']} {said['value']:.4f}", flush=True)
        ordered = {name: tasks[name] for name in self._tasks if name in tasks}
        return record | {"tasks": ordered, "finetuned": tuned, "missing": missing}

    # --- what is asked for ----------------------------------------------------------------------------

    def _parts(self, model: Any) -> tuple[Parts, int | None]:
        """The parts of a model and the step that is meant."""
        step = model.step
        if not is_run(model.source):
            if step is not None:
                raise ValueError(f"{model.source} is not a run directory, so it has no step {step}")
            folder = fetch(model.source)
            files = sorted(f for f in folder.iterdir() if f.suffix in (".safetensors", ".json"))
            told: list[Any] = [(f.name, f.stat().length) for f in files]
            told.append((folder / "config.json").read_text())
        else:
            good = good_steps(model.source)
            if not good:
                raise ValueError(f"{model.source} is a run directory without a good checkpoint")
            step = good[-1] if step is None else step
            told = [read_meta(model.source, step)["sha256"]]
        digest = hashlib.sha256(repr(told).encode()).hexdigest()[:16]
        of = {"model": model.source, "step": step, "weights": digest}
        return Parts(self._out, model.label, of=of), step

    def _asked(self) -> dict[str, dict[str, Any]]:
        """Every part by its name with what it depends on besides the model."""
        recipe, report = self._recipe, self._report
        dtype = {"compute_dtype": recipe.train.compute_dtype}
        streams = {name: _fingerprint(s.path) for name, s in recipe.streams.items()}
        heldout = {
            "max_rows": recipe.eval.max_rows,
            "seq_len": recipe.train.seq_len,
            "streams": streams,
        }
        asked: dict[str, dict[str, Any]] = {"heldout": heldout | dtype}
        for name, task in self._tasks.items():
            asked[f"tasks/{name}"] = dtype | {
                "definition": task.definition,
                "limit": report.limit,
                "chat": report.chat,
                "fixtures": self._fixtures,
            }
        for name in report.finetune:
            definition = load_task(name).definition
            asked[f"finetuned/{name}"] = dtype | {
                "definition": definition,
                "limit": report.limit,
                "chat": report.chat,
                "optimizer": recipe.optimizer.model_dump(mode="json"),
                "seq_len": recipe.train.seq_len,
                "rows": recipe.train.global_batch_rows,
            }
        domain = {name: streams[name] for name in recipe.eval.streams.domain}
        if report.answers and domain:
            asked["answers"] = {"streams": domain, "each": report.answers, **_said(ANSWER)}
        if self._matrix is not None:
            matrix = hashlib.sha256(
                self._matrix.model_dump_json(exclude={"about"}).encode()
            ).hexdigest()[:16]
            tokens = report.safety.max_new_tokens
            asked["safety"] = {"matrix": matrix, "max_new_tokens": tokens}
        return asked

    # --- measuring ------------------------------------------------------------------------------------

    def _open(self, source: str, step: int | None, mesh: Mesh | None = None) -> Model:
        from tpu.mesh import make_mesh

        recipe = self._recipe
        return open_model(
            source,
            mesh or make_mesh(recipe.mesh),
            step=step,
            max_seq_len=recipe.train.seq_len if mesh is None else None,
            vocab_multiple=recipe.model.vocab_multiple if mesh is None else self._report.tensor,
            tokenizer=self._tokenizer(source),
        )

    def _tokenizer(self, source: str) -> str | None:
        """For weights without one, what the recipe that trains from them says."""
        recipe = self._recipe
        if is_run(source) or source != recipe.model.init_from or _has_tokenizer(source):
            return None
        own = epath.Path(recipe.run_dir) / "tokenizer"
        return str(own) if own.exists() else recipe.tokenizer

    def _heldout(self, model: Model) -> dict[str, Any]:
        scores, anew, kernel = score_streams(model, self._recipe)
        streams = {
            name: {
                "kind": self._recipe.eval.streams.of(name),
                "loss": score.loss,
                "bits_per_byte": score.bits_per_byte,
                "interval": score.interval(),
                "tokens": score.tokens,
                "tokenized_anew": name in anew,
                "row_nats": score.row_nats.tolist(),
                "row_bytes": score.row_bytes.tolist(),
            }
            for name, score in scores.items()
        }
        facts = {
            "add_bos": model.add_bos,
            "vocab_size": model.config.vocab_size,
            "tokenizer": model.tokenizer.fingerprint,
            "chat": model.chat.template,
            "attention": kernel,
            "compute_dtype": self._recipe.train.compute_dtype,
            "device": jax.devices()[0].device_kind,
        }
        return {"facts": facts, "heldout": streams}

    def _task(
        self, task: Task, items: Items, model: Model, writes: Engine | None
    ) -> dict[str, Any]:
        result = run_task(
            task,
            items,
            model,
            _scorer(model, self._recipe),
            writes.generate if writes else None,
            chat=model.chat if self._report.chat else None,
            limit=self._report.limit,
        )
        told = dataclasses.asdict(result)
        return told | {"samples": told["samples"][:_SAMPLES]}

    def _tuned(self, name: str, model: Any, step: int | None) -> dict[str, Any]:
        """The task after an epoch of its train split, and on the same items without."""
        task = load_task(name)
        out = f"{self._out}/{model.label}/finetune/{name}"
        result = tuned_score(
            model.source,
            task,
            self._recipe,
            out,
            limit=self._report.limit,
            chat=self._report.chat,
            tokenizer=self._tokenizer(model.source),
        )
        _, test = splits(task)
        untuned = self._task(task, test, self._open(model.source, step), None)
        return dataclasses.asdict(result) | {"prompted": untuned}

    def _writing(self, source: str, step: int | None) -> tuple[Model, Engine]:
        """A model as the engine wants it: on few devices, its weights in the precision of use."""
        from tpu.config import MeshConfig
        from tpu.mesh import make_mesh

        tensor = self._report.tensor
        devices = jax.local_devices()[:tensor]
        if len(devices) < tensor:
            raise ValueError(f"eval.report.tensor: {tensor}, but there are {len(devices)} devices")
        model = self._open(source, step, make_mesh(MeshConfig(fsdp=1, tensor=tensor), devices))
        written = any(task.kind != "options" for task in self._tasks.values())
        window = min(_LONG_WINDOW if written else _WINDOW, model.config.max_seq_len)
        settings = GenerationConfig(window=window, long_prompts="cut")
        return model, open_writer(model, devices, settings)

    def _domain(self) -> dict[str, str]:
        """The domain's streams by name, with their folders."""
        return {name: self._recipe.streams[name].path for name in self._recipe.eval.streams.domain}

    def _safety(self, engine: Engine) -> dict[str, Any]:
        assert self._matrix is not None
        tokens = self._report.safety.max_new_tokens
        replies = ask(self._matrix, engine.generate, max_new_tokens=tokens)
        return {
            "about": self._matrix.about,
            "rates": rates(replies, wilson),
            "replies": [dataclasses.asdict(reply) for reply in replies],
        }


def _scorer(model: Model, recipe: Any) -> Scorer:
    return Scorer(
        model.config,
        model.plan.mesh,
        model.plan.specs,
        compute_dtype=recipe.train.compute_dtype,
        bos_id=model.tokenizer.bos_id,
    )


def _fingerprint(path: Any) -> str | None:
    """That of a stream's held-out text; None where it has none."""
    if not (epath.Path(path) / "stream.json").exists():
        raise ValueError(f"streams: {path} is not there or not prepared; see RECIPE's `prepare`")
    file = epath.Path(path) / "heldout" / "stream.json"
    return json.loads(file.read_text())["fingerprint"][:16] if file.exists() else None


def _has_tokenizer(source: str) -> bool:
    names = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
    return any((fetch(source) / name).exists() for name in names)


def _said(sampling: Sampling) -> dict[str, Any]:
    return {"max_new_tokens": sampling.max_new_tokens, "temperature": sampling.temperature}
