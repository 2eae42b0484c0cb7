"""What an adaptation gained and what it cost: models against their base, on one page.

BASE is the zero line, ADAPTED what became of it; each is a run directory (RUN@STEP for one of its
checkpoints), a Hugging Face folder or a hub id, and further ones may follow, such as intermediate
checkpoints. RECIPE is the training recipe whose streams and `eval` settings are used; default: the one
that ADAPTED, a run directory, was made with.

Into --out go report.html (one file with everything in it), report.md (tables for a model card) and
report.json. Every measured part is kept there: a report that was stopped goes on with the next part.
"""

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from etils import epath


@dataclass(frozen=True)
class Named:
    """A model of a report.

    Attributes:
        label: what it is called there: base, adapted, adapted@200.
        source: run directory, Hugging Face folder or hub id.
        step: of a run.
    """

    label: str
    source: str
    step: int | None


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    from configs.load import Flag, command, user_errors
    from configs.recipe import TrainRecipe
    from evaluation.measuring import Measuring
    from training.steps import CorruptCheckpoint

    flags = (
        Flag("out", "folder of the report and of its measured parts", "DIR"),
        Flag("fixtures", "tasks ask this project's own rows; the page says that they say nothing"),
    )
    with user_errors():
        words, more = _models(list(sys.argv[1:] if argv is None else argv))
    recipe, options = command(
        TrainRecipe, words, __doc__ or "", flags=flags, arguments=("BASE", "ADAPTED")
    )
    with user_errors():
        out = options.flags["out"]
        if not out:
            raise ValueError("--out: missing; name the folder of the report: --out=DIR")
        models = named([*options.arguments, *more])
        try:
            measuring = Measuring(recipe, out, fixtures=bool(options.flags["fixtures"]))
            if options.dry_run:
                print(*measuring.plan(models), sep="\n")
                return 0
            measured = [measuring.measure(model) for model in models]
        except CorruptCheckpoint as error:
            raise ValueError(str(error)) from error
        missing = write(out, measured, recipe)
    return 1 if missing else 0


def write(out: str, measured: Sequence[dict[str, Any]], recipe: Any) -> list[str]:
    """The page, the tables and the figures from what was measured; returns what is missing."""
    from evaluation.findings import findings
    from evaluation.report_markdown import markdown
    from evaluation.report_page import page

    found = findings(measured, recipe)
    folder = epath.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    text = markdown(found)
    (folder / "report.md").write_text(text)
    (folder / "report.html").write_text(page(found))
    print(text)
    print(f"Page:     {folder / 'report.html'}")
    print(f"Tables:   {folder / 'report.md'} (for a model card)")
    for line in found["missing"]:
        print(f"missing:  {line}")
    return found["missing"]


def named(sources: Sequence[str]) -> list[Named]:
    """The models of the command line, base first, with their labels.

    Raises:
        ValueError: the same model twice.
    """
    models: list[Named] = []
    for number, text in enumerate(sources):
        found = re.fullmatch(r"(.+)@(\d+)", text)
        source, step = (found[1], int(found[2])) if found else (text, None)
        label = ("base", "adapted")[number] if number < 2 else _label(text, models)
        if any((m.source, m.step) == (source, step) for m in models):
            raise ValueError(f"{text}: stands there twice; name different models or steps")
        models.append(Named(label, source, step))
    return models


def _label(text: str, models: Sequence[Named]) -> str:
    """adapted@STEP for a step of the adapted run, else the end of the name."""
    source, _, step = text.rpartition("@")
    if step.isdigit() and source == models[1].source:
        return f"adapted@{step}"
    name = re.sub(r"[^A-Za-z0-9@._-]+", "_", text.rstrip("/").rsplit("/", 1)[-1])
    taken = {m.label for m in models}
    return name if name not in taken else f"{name}_{len(models)}"


def _models(words: list[str]) -> tuple[list[str], list[str]]:
    """The words with BASE, ADAPTED and RECIPE, and the further models, which have no fixed number."""
    plain, skip = [], False
    for i, word in enumerate(words):
        if skip:
            skip = False
        elif word == "--out":
            skip = True
        elif not word.startswith("-") and "=" not in word:
            plain.append(i)
    recipes = [i for i in plain if words[i].endswith(".yaml")]
    models = [i for i in plain if i not in recipes]
    more = [words[i] for i in models[2:]]
    words = [word for i, word in enumerate(words) if i not in models[2:]]
    if len(models) >= 2 and not recipes:
        source = re.sub(r"@\d+$", "", words[models[1]])
        own = epath.Path(source) / "recipe.yaml"
        if own.exists():
            words.insert(models[1] + 1, str(own))
        else:
            raise ValueError(
                f"RECIPE: missing; {source} has no recipe.yaml as a run directory has, so name the "
                "training recipe whose streams are measured"
            )
    return words, more


if __name__ == "__main__":
    sys.exit(main())
