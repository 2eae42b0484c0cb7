"""The method end to end at small size: a synthesizer of one's own, and what its pairs are worth.

    python -m data.synthesis.proof RECIPE

Runs the commands of the recipe one after the other (each goes on where it was, so this one does
too): texts with pairs are made of pages, a synthesizer is trained on those that are not held out,
it writes pairs about the held-out ones, and two models are trained for equally many tokens, on the
held-out texts with their pairs and on the same texts raw. Then it measures the synthesizer on texts
of pages it has never seen, and leaves `proof.json` and `proof.md` in `out_dir`.

The exit code is 1 where a threshold of the recipe is missed.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from data.document import Document, draw
from data.generator import Completion, Generate, Sampling
from data.strict import Config
from data.synthesis.config import FiltersConfig
from data.synthesis.filters import TextFilter
from data.synthesis.format import EOS, Pair, Rejected, parse, synthesis_prompt
from data.synthesis.grounding import overlap

RUNS = (1, 3)  # content words, and runs of three of them


class ThresholdsConfig(Config):
    """What the synthesizer must reach on held-out texts."""

    parse_rate: float = Field(
        default=0.95, description="pairs that parse, of all pieces that the model wrote"
    )
    accepted: float = Field(default=2.0, description="pairs that the filters let through, a text")
    grounded: float = Field(
        default=3.0,
        description="content words of the answers found in their own text, against another one",
    )


class ProofConfig(Config):
    """The commands to run, and what to measure."""

    out_dir: str
    commands: tuple[str, ...] = Field(
        description="run in their order: a module (data.prepare) or file (train.py), its recipe"
    )
    synthesizer: str = Field(description="the run directory of the synthesizer")
    texts: str = Field(description="held-out documents, texts with their pages' own pairs")
    num_texts: int = Field(default=200, ge=2, description="measured, drawn by document id")
    max_new_tokens: int = Field(default=200, ge=8)
    engine: dict[str, Any] = Field(default={}, description="settings of the engine")
    filters: FiltersConfig = FiltersConfig()
    augmented: str = Field(description="the run directory of the model trained on texts with pairs")
    raw: str = Field(description="the run directory of the model trained on the texts alone")
    shown: int = Field(default=50, ge=0, description="pairs printed, as they came")
    thresholds: ThresholdsConfig = ThresholdsConfig()


@dataclass(frozen=True)
class Written:
    """What the synthesizer wrote about one text.

    Attributes:
        document: the text, and its page's own pairs.
        pairs: those that parse, in their order.
        refused: what the filters say against each of them; None: it is let through.
        broken: why the other pieces are no pairs.
        finish: why the output ends.
    """

    document: Document
    pairs: tuple[Pair, ...]
    refused: tuple[str | None, ...]
    broken: tuple[str, ...]
    finish: str

    @property
    def text(self) -> str:
        """What the pairs are about."""
        return self.document.turns[0].text

    @property
    def num_accepted(self) -> int:
        """Pairs that the filters let through."""
        return self.refused.count(None)

    @property
    def rejected(self) -> tuple[str, ...]:
        """The reasons against all that was written and not let through."""
        return (*self.broken, *(reason for reason in self.refused if reason))


@dataclass(frozen=True)
class Grounding:
    """Shares of the answers' content, by the length of the runs of words compared (`RUNS`)."""

    own: dict[int, float]
    other: dict[int, float]

    def ratio(self, n: int) -> float | None:
        """How many times more is found in the own text than in another; None: nothing in that.

        It is 0 where nothing is found in the own one either.
        """
        if not self.other[n]:
            return None if self.own[n] else 0.0
        return self.own[n] / self.other[n]


def choose(documents: Sequence[Document], number: int) -> list[Document]:
    """So many documents, drawn by their ids."""
    return sorted(documents, key=lambda d: (draw(d.id, "measured by the proof").random(), d.id))[
        :number
    ]


def write(
    documents: Sequence[Document],
    generate: Generate,
    filters: FiltersConfig,
    max_new_tokens: int,
) -> list[Written]:
    """What the synthesizer writes about each text, without any shot before it."""
    sampling = Sampling(max_new_tokens=max_new_tokens, stop=(EOS,))
    prompts = [
        synthesis_prompt(str(i), document.turns[0].text, sampling=sampling)
        for i, document in enumerate(documents)
    ]
    completions = {int(completion.id): completion for completion in generate(prompts)}
    return [_read(document, completions[i], filters) for i, document in enumerate(documents)]


def _read(document: Document, completion: Completion, filters: FiltersConfig) -> Written:
    if completion.finish == "error":
        raise ValueError(f"{document.source}: no pairs could be asked for: {completion.error}")
    parsed = parse(completion.text)
    judge = TextFilter(document.turns[0].text, filters).judge
    judged = [judge(pair) for pair in parsed.pairs]
    return Written(
        document=document,
        pairs=parsed.pairs,
        refused=tuple(item.reason if isinstance(item, Rejected) else None for item in judged),
        broken=tuple(item.reason for item in parsed.rejected),
        finish=completion.finish,
    )


def parse_rate(written: Sequence[Written]) -> float:
    """Pairs that parse over all pieces of the outputs; what the filters say does not enter."""
    pairs = sum(len(item.pairs) for item in written)
    broken = sum(len(item.broken) for item in written)
    return pairs / max(pairs + broken, 1)


def grounding(texts: Sequence[tuple[str, str, Sequence[Pair]]]) -> Grounding:
    """How much of the answers is in their own text, and in another one drawn for it.

    Args:
        texts: a name for the draw, the text, its pairs (all that parse, not the accepted alone).
    """
    own: dict[int, list[float]] = {n: [] for n in RUNS}
    other: dict[int, list[float]] = {n: [] for n in RUNS}
    for i, (name, text, pairs) in enumerate(texts):
        j = draw(name, "another text").randrange(len(texts) - 1)
        another = texts[j + (j >= i)][1]
        for pair in pairs:
            for n in RUNS:
                own[n].append(overlap(pair.answer, text, n))
                other[n].append(overlap(pair.answer, another, n))
    return Grounding(*({n: _mean(values[n]) for n in RUNS} for values in (own, other)))


def pages_own(document: Document) -> tuple[Pair, ...]:
    """The pairs that the page itself has, which the synthesizer has not seen."""
    texts = [turn.text for turn in document.turns[1:]]
    return tuple(map(Pair, texts[::2], texts[1::2]))


def figures(written: Sequence[Written]) -> dict[str, Any]:
    """What the proof says of a synthesizer."""
    by = grounding([(item.document.id, item.text, item.pairs) for item in written])
    reference = grounding(
        [(item.document.id, item.text, pages_own(item.document)) for item in written]
    )
    return {
        "texts": len(written),
        "pairs": sum(len(item.pairs) for item in written),
        "parse_rate": parse_rate(written),
        "ended_by_itself": _mean([item.finish == "stop" for item in written]),
        "accepted_per_text": _mean([item.num_accepted for item in written]),
        "rejected": dict(Counter(r for item in written for r in item.rejected).most_common()),
        "grounded": {
            str(n): {
                "own": by.own[n],
                "other": by.other[n],
                "ratio": by.ratio(n),
                "pages_own": reference.own[n],
                "pages_other": reference.other[n],
            }
            for n in RUNS
        },
    }


def missed(told: dict[str, Any], thresholds: ThresholdsConfig) -> list[str]:
    """The thresholds that are missed, a line each."""
    reached = {
        "parse_rate": told["parse_rate"],
        "accepted": told["accepted_per_text"],
        "grounded": told["grounded"]["1"]["ratio"],
    }
    return [
        f"{name}: {value:.3f}, wanted are {getattr(thresholds, name):g}"
        for name, value in reached.items()
        if value is not None and value < getattr(thresholds, name)
    ]


def bits_per_byte(run_dir: str) -> list[tuple[int, float]]:
    """Steps of a run of one stream at which its held-out text was measured, and the bits per byte."""
    from etils import epath

    measured = []
    for line in (epath.Path(run_dir) / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        for name, value in record.items():
            if name.startswith("eval/") and name.endswith("/bits_per_byte"):
                measured.append((record["step"], value))
    return measured


def page(told: dict[str, Any], written: Sequence[Written], shown: int) -> str:
    """The figures and the first pairs under their texts, as Markdown."""
    return f"{figures_page(told)}\n{pairs_page(written, shown)}"


def pairs_page(written: Sequence[Written], shown: int) -> str:
    """The first pairs that parse, as they came, each with what the filters say against it."""
    lines: list[str] = []
    number = 0
    for item in written:
        if number == shown:
            break
        lines += [*(f"> {line}  " for line in item.text.splitlines()), ""]
        if not item.pairs:
            lines += [f"no pair: {', '.join(item.broken) or 'nothing was written'}", ""]
        for pair, reason in zip(item.pairs, item.refused, strict=True):
            if number == shown:
                break
            number += 1
            question = " / ".join(pair.question.splitlines())
            refused = f" *(refused: {reason})*" if reason else ""
            lines += [
                f"{number}. **{question}**  ",
                f"   {' / '.join(pair.answer.splitlines())}{refused}",
            ]
        lines += [""] * bool(item.pairs)
    return "\n".join(lines)


def figures_page(told: dict[str, Any]) -> str:
    """The figures as Markdown tables."""
    one, three = told["grounded"]["1"], told["grounded"]["3"]
    lines = [
        "| on held-out pages | |",
        "|---|---|",
        f"| texts, pairs written | {told['texts']}, {told['pairs']} |",
        f"| pieces that parse as pairs | {told['parse_rate']:.1%} |",
        f"| outputs that end by themselves | {told['ended_by_itself']:.1%} |",
        f"| accepted pairs a text | {told['accepted_per_text']:.2f} |",
        *(
            f"| {what} of the answers in their own text, in another | {of['own']:.3f}, "
            f"{of['other']:.3f}" + (f": {of['ratio']:.1f} times |" if of["ratio"] else " |")
            for what, of in (("content words", one), ("runs of three of them", three))
        ),
        *(
            f"| {what} of the pages' own answers | {of['pages_own']:.3f}, {of['pages_other']:.3f} |"
            for what, of in (("content words", one), ("runs of three of them", three))
        ),
        "| rejected | "
        + ", ".join(f"{reason} {count}" for reason, count in told["rejected"].items())
        + " |",
        "",
        "| bits per byte of raw held-out text | "
        + " | ".join(f"step {step}" for step, _ in told["augmented"])
        + " |",
        "|---|" + "---|" * len(told["augmented"]),
        *(
            f"| {what} | " + " | ".join(f"{value:.4f}" for _, value in told[name]) + " |"
            for what, name in (("texts with their pairs", "augmented"), ("texts alone", "raw"))
        ),
    ]
    return "\n".join(lines) + "\n"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    import subprocess
    import sys

    from etils import epath

    from configs.load import command, recipe_yaml, user_errors
    from data.rows import read_lines, write_json
    from model.config import GenerationConfig
    from model.generate import open_engine

    config, options = command(ProofConfig, sys.argv[1:] if argv is None else argv, __doc__ or "")
    if options.dry_run:
        print(recipe_yaml(config))
        return 0
    for line in config.commands:
        program, *arguments = line.split()
        how = [program] if program.endswith(".py") else ["-m", program]
        print(f"\n$ python {' '.join([*how, *arguments])}", flush=True)
        code = subprocess.run([sys.executable, *how, *arguments], check=False).returncode
        if code:
            return code
    with user_errors():
        out = epath.Path(config.out_dir)
        documents = [Document.from_json(line) for line in read_lines(epath.Path(config.texts))]
        engine = open_engine(config.synthesizer, GenerationConfig(**config.engine))
        chosen = choose(documents, config.num_texts)
        written = write(chosen, engine.generate, config.filters, config.max_new_tokens)
        told = figures(written) | {
            "augmented": bits_per_byte(config.augmented),
            "raw": bits_per_byte(config.raw),
        }
        write_json(out / "proof.json", told)
        (out / "proof.md").write_text(page(told, written, config.shown))
        print(f"\n{page(told, written, 5)}\nFigures and {config.shown} pairs: {out / 'proof.md'}")
        if short := missed(told, config.thresholds):
            print("\n".join(f"missed: {line}" for line in short))
            return 1
    return 0


if __name__ == "__main__":
    import sys

    sys.exit(main())
