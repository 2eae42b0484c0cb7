"""Asks a generator for pairs in rounds: what a lane has so far is the few-shot context of its next text.

N texts in the order of their ids make ceil(N / M) lanes of M texts: text i, and those a lane's count
behind it. Every lane's r-th text is asked for in round r, behind the lane's earlier texts with their
pairs, as long as the text before gave a pair and the prompt fits the generator's window, counted in
its own tokens; otherwise the lane begins anew.
Source: Instruction Pre-Training; lanes there are slices of whatever a host had read.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from data.document import Document, draw
from data.generator import Completion, Generate, Prompt, Sampling
from data.synthesis.config import SynthesisConfig
from data.synthesis.filters import judge_pairs
from data.synthesis.format import (
    EOS,
    Example,
    Rejected,
    Task,
    parse,
    synthesis_prompt,
    write_prompt,
    write_task,
)
from data.tally import Tally


@dataclass(frozen=True)
class Text:
    """A document, or a chunk of one, that pairs are asked for.

    Attributes:
        document: the document as it came to the stage.
        text: all of it, or the chunk.
        span: the chunk's characters in the document; None for all of it.
        name: the document's id, with `#n` behind it for a chunk.
    """

    document: Document
    text: str
    span: tuple[int, int] | None = None
    name: str = ""


@dataclass(frozen=True)
class Entry:
    """A text and what came of it.

    Attributes:
        text: what pairs were asked for.
        tasks: the accepted ones.
        rejected: all else in the model's output, with reasons.
        linked: it was asked for behind the entry before it in its lane, and has pairs itself.
    """

    text: Text
    tasks: tuple[Task, ...]
    rejected: tuple[Rejected, ...]
    linked: bool


CountTokens = Callable[[str], int]


def run_rounds(
    texts: Sequence[Text],
    config: SynthesisConfig,
    *,
    generate: Generate,
    count_tokens: CountTokens,
    tally: Tally,
) -> Iterator[list[Entry]]:
    """The lanes of one block of texts, each with its entries in the order of the rounds.

    Args:
        texts: in the order of their documents' ids.
        config: rounds, window, sampling, filters.
        generate: what writes the pairs.
        count_tokens: tokens of a prompt, in the generator's tokenizer.
        tally: gets `synthesis{...}`.

    Raises:
        ValueError: too many requests failed.
    """
    num_lanes = -(-len(texts) // config.rounds)
    lanes: list[list[Entry]] = [[] for _ in range(num_lanes)]
    failed: list[str] = []
    for start in range(0, len(texts), max(num_lanes, 1)):
        slice_ = texts[start : start + num_lanes]
        asked = {
            f"{start + i}": _ask(f"{start + i}", text, lanes[i], config, count_tokens, tally)
            for i, text in enumerate(slice_)
        }
        for id_, completion in _completed(generate, (prompt for prompt, _ in asked.values())):
            i = int(id_) - start
            lanes[i].append(_read(completion, slice_[i], asked[id_][1], config, tally))
            if completion.finish == "error":
                failed.append(completion.error)
    if len(failed) > config.max_failed * len(texts):
        raise ValueError(
            f"corpora.{tally.name}.synthesis: {len(failed)} of {len(texts)} requests to the "
            f"generator failed (the last: {failed[-1]}); more than max_failed: {config.max_failed:g}. "
            "What was finished is kept; run the same command to go on"
        )
    yield from lanes


def _completed(generate: Generate, prompts: Iterable[Prompt]) -> Iterator[tuple[str, Completion]]:
    """Every completion once; a generator that forgets a prompt or invents one is a defect."""
    prompts = list(prompts)
    left = {prompt.id for prompt in prompts}
    for completion in generate(prompts):
        if completion.id not in left:
            raise AssertionError(f"the generator gave {completion.id!r} twice, or was not asked it")
        left.remove(completion.id)
        yield completion.id, completion
    if left:
        raise AssertionError(f"the generator gave no completion for {sorted(left)[:5]}")


def _ask(
    id: str,
    text: Text,
    lane: Sequence[Entry],
    config: SynthesisConfig,
    count_tokens: CountTokens,
    tally: Tally,
) -> tuple[Prompt, bool]:
    """The request for one text, and whether it stands behind the lane's earlier ones."""
    shots = _shots(lane)
    how = "new"
    if lane:
        how = "follows" if shots else "restarts: no pairs before"
    if shots:
        written = write_prompt(text.text, shots)
        if count_tokens(written) + config.max_new_tokens > config.window:
            shots, how = [], "restarts: window full"
    tally.add({"synthesis": {"prompts": {how: 1}}})
    seed = draw(text.name, "synthesis: sampling").getrandbits(31) if config.temperature else 0
    sampling = Sampling(
        temperature=config.temperature,
        top_p=config.top_p,
        max_new_tokens=config.max_new_tokens,
        stop=(EOS,),
        seed=seed,
    )
    return synthesis_prompt(id, text.text, shots, sampling), bool(shots)


def _shots(lane: Sequence[Entry]) -> list[Example]:
    """The entries that the next text is shown: the last one and those it is linked to."""
    shots: list[Example] = []
    for entry in reversed(lane):
        if not entry.tasks:
            break
        shots.insert(0, Example(entry.text.text, tuple(map(write_task, entry.tasks))))
        if not entry.linked:
            break
    return shots


def _read(
    completion: Completion, text: Text, follows: bool, config: SynthesisConfig, tally: Tally
) -> Entry:
    """What a completion says about its text. No output whatever breaks it."""
    counts: dict[str, int] = {"texts": 1, f"finish {completion.finish}": 1}
    counts |= {"tokens_read": completion.num_prompt_tokens, "tokens_written": completion.num_tokens}
    tally.add({"synthesis": counts})
    if completion.finish == "error":
        return Entry(text, (), (Rejected("generation failed", completion.error),), False)
    parsed = parse(completion.text)
    language = text.document.meta.get("language")
    tasks, refused = judge_pairs(parsed.pairs, text.text, config.filters, language)
    rejected = (*parsed.rejected, *refused)
    tally.add({"synthesis": {"accepted": len(tasks)}})
    for item in rejected:
        tally.add({"synthesis": {"rejected": {item.reason: 1}}})
    if not tasks:
        tally.add({"synthesis": {"texts without a pair": 1}})
    return Entry(text, tuple(tasks), rejected, follows and bool(tasks))
