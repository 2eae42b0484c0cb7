"""Which of two models answers better, by a judge behind an OpenAI-compatible server.

FIRST and SECOND are files of answers (.jsonl), or models (a run directory, a Hugging Face folder, a
hub id) that answer here. Every pair is shown twice, once in either order; both verdicts are added up,
so a judge that likes whoever stands first gives ties. What has no verdict that can be read after
`asks` tries is counted apart and belongs to neither side.

--judge is a YAML file with the judge's server (base_url, model, api_key_env, concurrency, timeout_s,
price_in, price_out, max_cost, ...) and asks, retry_temperature, max_new_tokens, wording. Everything
that was paid for is kept in --out: a command that was stopped, or whose judge gave out, goes on where
it was when it is given again.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from data.document import Turn
from data.generator import Generate, Prompt, Sampling, ServerConfig
from evaluation.judge_answers import (
    Answers,
    Question,
    conversation,
    identity,
    make_answers,
    read_answers,
    read_questions,
    write_answers,
)
from evaluation.judge_figures import Figures, Outcome, figures, outcome_of, shown

WORDING = Path(__file__).with_suffix(".yaml")
Verdict = Literal["first", "second", "equal"]
_SWAPPED: dict[Verdict, Verdict] = {"first": "second", "second": "first", "equal": "equal"}


class JudgeConfig(ServerConfig):
    """The judge: a server, and how it is asked."""

    endpoint: Literal["completions", "chat"] = "chat"
    attempts: int = Field(default=4, ge=1, description="tries of one request that fails")
    timeout_s: float = Field(default=120.0, gt=0, description="longest wait for an answer")
    asks: int = Field(
        default=3, ge=1, description="times that a judge is asked until its verdict can be read"
    )
    temperature: float = Field(default=0.0, ge=0)
    retry_temperature: float = Field(
        default=0.7, ge=0, description="from the second time on, or it would say the same again"
    )
    max_new_tokens: int = Field(default=1024, ge=1, description="analysis and verdict")
    wording: str | None = Field(
        default=None, description="a YAML file in the shape of evaluation/judge.yaml"
    )


@dataclass
class Judged:
    """One pair and what was said of it.

    Attributes:
        id: of the question.
        group: of the question.
        same: both answered the same, so nobody was asked.
        verdicts: for each order; first and second are the models, wherever they stood.
        replies: the judge's, for each order.
        asks: how often it was asked, for each order.
        errors: why there is no reply, for each order.
    """

    id: str
    group: str
    same: bool = False
    verdicts: list[Verdict | None] = field(default_factory=lambda: [None, None])
    replies: list[str] = field(default_factory=lambda: ["", ""])
    asks: list[int] = field(default_factory=lambda: [0, 0])
    errors: list[str] = field(default_factory=lambda: ["", ""])

    @property
    def outcome(self) -> Outcome:
        """For the first model."""
        return "tie" if self.same else outcome_of(self.verdicts)


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    from configs.load import user_errors

    options = _parser().parse_args(argv)
    with user_errors():
        return _run(options)


def judge(
    questions: Sequence[Question],
    first: Answers,
    second: Answers,
    generate: Generate,
    config: JudgeConfig,
    *,
    criteria: str = "general",
) -> list[Judged]:
    """Both verdicts on every pair, as far as the judge gave them.

    Args:
        questions: what was asked.
        first: one model's answers.
        second: the other's.
        generate: the judge.
        config: how it is asked.
        criteria: which of the wording's.

    Raises:
        ValueError: there are no such criteria, or the judge refuses.
    """
    wording = _wording(config)
    if criteria not in wording["criteria"]:
        raise ValueError(f"--criteria: {criteria!r}; there are {', '.join(wording['criteria'])}")
    judged = [Judged(q.id, q.group, same=first[q.id] == second[q.id]) for q in questions]
    texts: dict[str, str] = {}
    places: dict[str, tuple[Judged, int]] = {}
    for number, (question, pair) in enumerate(zip(questions, judged, strict=True)):
        for order, (a, b) in enumerate(((first, second), (second, first))):
            if not pair.same:
                name = f"{number}:{order}"
                places[name] = pair, order
                texts[name] = _prompt(question, a[question.id], b[question.id], wording, criteria)
    for ask in range(config.asks):
        prompts = [
            Prompt(
                name,
                (Turn("system", wording["system"]), Turn("user", texts[name])),
                Sampling(
                    temperature=config.retry_temperature if ask else config.temperature,
                    max_new_tokens=config.max_new_tokens,
                    seed=ask,
                ),
            )
            for name, (pair, order) in places.items()
            if pair.verdicts[order] is None and not pair.errors[order]
        ]
        for completion in generate(prompts) if prompts else ():
            pair, order = places[completion.id]
            pair.asks[order] += 1
            if completion.finish == "error":
                pair.errors[order] = completion.error
                continue
            pair.replies[order] = completion.text
            verdict = read_verdict(completion.text, wording)
            pair.verdicts[order] = _SWAPPED[verdict] if verdict and order else verdict
    return judged


def read_verdict(reply: str, wording: dict[str, Any]) -> Verdict | None:
    """The verdict that stands last in a judge's text; None where there is none."""
    found: tuple[int, Verdict] | None = None
    for verdict, patterns in wording["verdicts"].items():
        for pattern in patterns:
            for match in re.finditer(pattern, reply, re.IGNORECASE | re.MULTILINE):
                if found is None or match.start() > found[0]:
                    found = match.start(), verdict
    return found and found[1]


def _prompt(
    question: Question,
    first: Sequence[str],
    second: Sequence[str],
    wording: dict[str, Any],
    criteria: str,
) -> str:
    """What the judge reads about one pair in one order."""
    speakers = wording["speakers"]

    def rendered(turns: Sequence[Turn]) -> str:
        return "\n\n".join(f"{speakers[t.role]}: {t.text or wording['empty']}" for t in turns)

    parts = {"criteria": wording["criteria"][criteria], "closing": wording["closing"]}
    if question.later:
        sides = [rendered(conversation(question, replies)) for replies in (first, second)]
        return wording["dialogue"].format(first=sides[0], second=sides[1], **parts)
    replies = {"first": first[0] or wording["empty"], "second": second[0] or wording["empty"]}
    if len(question.before) == 1:
        return wording["single"].format(question=question.before[0].text, **replies, **parts)
    return wording["reply"].format(dialogue=rendered(question.before), **replies, **parts)


def _wording(config: JudgeConfig) -> dict[str, Any]:
    path = Path(config.wording) if config.wording else WORDING
    own = yaml.safe_load(WORDING.read_text(encoding="utf-8"))
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"wording: {path} cannot be read: {error}") from error
    if not isinstance(said, dict) or set(said) != set(own):
        raise ValueError(f"wording: {path} must have the keys {', '.join(own)}")
    return said


def read_config(path: str) -> JudgeConfig:
    """The judge of a YAML file.

    Raises:
        ValueError: it cannot be read, or a field is wrong; the value is not shown, it may hold a key.
    """
    try:
        record: Any = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"--judge: {path} cannot be read: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"--judge: {path} is no list of settings; write base_url: and model:")
    try:
        config = JudgeConfig.model_validate(record)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors()]
        raise ValueError(f"--judge: {path}: {'; '.join(problems)}") from None
    if not config.model:
        raise ValueError(f"--judge: {path}: model: missing; the server's name of the judge")
    return config


# --- the command ----------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    from data.server import Server

    config = read_config(options.judge)
    questions = read_questions(options.prompts, options.limit)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    first, second = (_answers(options, side, questions, out) for side in ("first", "second"))
    server = Server(config, journal=str(out / "judge"))
    judged = judge(questions, first, second, server.generate, config, criteria=options.criteria)
    unanswered = [error for pair in judged for error in pair.errors if error]
    if unanswered and not options.accept_missing:
        given = sum(bool(reply) for pair in judged for reply in pair.replies)
        raise ValueError(
            f"{config.base_url}: {len(unanswered)} of {given + len(unanswered)} verdicts were not "
            f"given ({unanswered[0]}); the {given} others are kept in {out}, and the same command "
            f"goes on from there; --accept_missing counts them as unparsed ({server.usage})"
        )
    names = tuple(options.names or (options.first, options.second))
    found = figures([(pair.group, pair.outcome) for pair in judged])
    _write(out, judged, found, names, config, server.usage, options)
    print(shown(found, names, sum(pair.same for pair in judged), _agreement(judged)))
    print(f"{config.model}: {server.usage}\n{out}/verdicts.jsonl: every verdict and its reasons")
    return 0


def _answers(
    options: argparse.Namespace, side: str, questions: Sequence[Question], out: Path
) -> Answers:
    """Answers from a file, or made by a model and kept."""
    source = getattr(options, side)
    if source.endswith(".jsonl"):
        return read_answers(source, questions, f"--{side}")
    from data.journal import journaled
    from model.config import GenerationConfig
    from model.generate import open_engine
    from training.state import is_run
    from training.steps import good_steps

    step = getattr(options, f"{side}_step")
    if step is None and is_run(source):
        step = max(good_steps(source), default=None)  # a run that trains on answers anew
    sampling = Sampling(
        temperature=options.temperature, max_new_tokens=options.max_new_tokens, seed=options.seed
    )
    key = identity(source, step, questions, sampling) + str(options.chat)
    kept, note = out / f"{side}.jsonl", out / f"{side}.key"
    if not (kept.exists() and note.exists() and note.read_text() == key):
        engine = open_engine(source, GenerationConfig(), step=step, chat=options.chat)
        generate = journaled(engine.generate, str(out / side), key=key)
        note.unlink(missing_ok=True)
        write_answers(kept, make_answers(generate, questions, sampling))
        note.write_text(key)
    return read_answers(str(kept), questions, f"--{side}")


def _agreement(judged: Sequence[Judged]) -> tuple[int, int, int]:
    """Pairs with both verdicts, those on which both orders agree, verdicts for whoever stood first."""
    both = [pair.verdicts for pair in judged if None not in pair.verdicts]
    for_first = sum((a == "first") + (b == "second") for a, b in both)
    return len(both), sum(a == b for a, b in both), for_first


def _write(
    out: Path,
    judged: Sequence[Judged],
    found: Figures,
    names: tuple[str, ...],
    config: JudgeConfig,
    usage: Any,
    options: argparse.Namespace,
) -> None:
    lines = [
        json.dumps(asdict(pair) | {"outcome": pair.outcome}, ensure_ascii=False) + "\n"
        for pair in judged
    ]
    (out / "verdicts.jsonl").write_text("".join(lines), encoding="utf-8")
    both, agreeing, for_first = _agreement(judged)
    record = {
        "first": names[0],
        "second": names[1],
        "judge": config.model,
        "criteria": options.criteria,
        "prompts": options.prompts,
        "identical": sum(pair.same for pair in judged),
        "judged_both_ways": both,
        "both_orders_agree": agreeing,
        "verdicts_for_place_one": for_first,
        "missing": sum(bool(error) for pair in judged for error in pair.errors),
        "asks": sum(sum(pair.asks) for pair in judged),
        "usage": asdict(usage),
        **found.record(),
    }
    (out / "result.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.judge",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--judge", metavar="FILE", required=True, help="YAML: the judge's server")
    parser.add_argument("--prompts", metavar="FILE", required=True, help="JSONL: what is asked")
    parser.add_argument("--first", required=True, help="a .jsonl file of answers, or a model")
    parser.add_argument("--second", required=True, help="what it is compared with")
    parser.add_argument("--out", metavar="DIR", required=True, help="verdicts, figures, journal")
    parser.add_argument("--names", nargs=2, metavar=("A", "B"), help="what the two are called")
    parser.add_argument("--criteria", default="general", help="general, medical, or the wording's")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N prompts")
    parser.add_argument(
        "--accept_missing",
        action="store_true",
        help="figures even where the judge gives no answer (a prompt too long for it)",
    )
    made = parser.add_argument_group("answers that are made here")
    made.add_argument("--first_step", type=int, metavar="N", help="checkpoint of a run")
    made.add_argument("--second_step", type=int, metavar="N", help="checkpoint of a run")
    made.add_argument("--chat", help="template of conversations; default: each model's own")
    made.add_argument("--temperature", type=float, default=0.0, metavar="N")
    made.add_argument("--max_new_tokens", type=int, default=512, metavar="N")
    made.add_argument("--seed", type=int, default=0, metavar="N")
    return parser


if __name__ == "__main__":
    sys.exit(main())
