"""Which of the mined tasks a finished text gets.

Twins are parted, families that the recipe turns off are left out, unrelated pairs are added and
labels balanced where it asks for that, and no sub-category has more tasks than it may. Every choice
is drawn by (id, name of the choice).
"""

from collections.abc import Sequence

from data.comprehension.config import ComprehensionConfig
from data.comprehension.mined import Mined
from data.document import draw, uniform

Spans = Sequence[tuple[int, int]]


def select(
    mined: Sequence[Mined], id: str, config: ComprehensionConfig, text: str, sentences: Spans
) -> tuple[list[Mined], dict[str, int]]:
    """The tasks that are asked for, in text order, and how many are not, by reason.

    Args:
        mined: everything that was found in `text`.
        id: of the finished text.
        config: families, cap, negatives, balance.
        text: what is read.
        sentences: their spans in it; needed for negatives alone.
    """
    allowed = [task for task in mined if getattr(config.families, task.family)]
    chosen = _one_of_twins(allowed, id)
    left_out = {"family turned off": len(mined) - len(allowed), "twin": len(allowed) - len(chosen)}
    if config.negatives and classifies(id, config):
        chosen += unrelated(mined, id, config, text, sentences)
    labels: dict[tuple[str, str], list[int]] = {}
    for i, task in enumerate(chosen):
        labels.setdefault((task.family, task.label), []).append(i)
    caps = dict.fromkeys(labels, config.max_per_label or len(chosen))
    if config.balance:
        inference = [key for key in labels if key[0] == "nli"]
        rarest = min((len(labels[key]) for key in inference), default=0)
        caps |= {key: min(caps[key], rarest) for key in inference}
    kept: list[int] = []
    for (family, label), places in labels.items():
        if len(places) > (cap := caps[family, label]):
            places = _sample(places, cap, id, f"sample {family} {label}")
        kept += places
    left_out["over the cap"] = len(chosen) - len(kept)
    return [chosen[i] for i in sorted(kept)], left_out


def _sample(places: list[int], size: int, id: str, choice: str) -> list[int]:
    """`size` of the places, each pick a draw of its own."""
    places = places.copy()
    for i in range(size):
        j = i + int(uniform(id, f"{choice} {i}") * (len(places) - i))
        places[i], places[j] = places[j], places[i]
    return places[:size]


def classifies(id: str, config: ComprehensionConfig) -> bool:
    """Whether the text's inference tasks ask for the relation, not for the second sentence."""
    return uniform(id, "classify or generate") < config.classify


def _one_of_twins(mined: Sequence[Mined], id: str) -> list[Mined]:
    """One task of each pair of spans, drawn, in the order of the first of them."""
    pairs: dict[str, list[Mined]] = {}
    for task in mined:
        pairs.setdefault(task.pair, []).append(task)
    return [
        tasks[0] if len(tasks) == 1 else tasks[int(uniform(id, f"twin {pair}") * len(tasks))]
        for pair, tasks in pairs.items()
    ]


def unrelated(
    mined: Sequence[Mined], id: str, config: ComprehensionConfig, text: str, sentences: Spans
) -> list[Mined]:
    """Neutral pairs: a mined premise with a sentence from elsewhere that nothing relates to it.

    Elsewhere means neither in nor next to a sentence of any pair that the premise is part of.
    """
    sources = {task.pair: task for task in reversed(mined) if task.family in ("nli", "paraphrase")}
    found: list[Mined] = []
    for pair, task in sorted(sources.items(), key=lambda item: item[1].spans):
        random = draw(id, f"negatives {pair}")
        count = int(config.negatives) + (random.random() < config.negatives % 1)
        near = _near(task, mined)
        free = [
            (start, stop)
            for i, (start, stop) in enumerate(sentences)
            if stop - start >= 40
            and text[stop - 1] in ".。"
            and not any(
                low < sentences[min(i + 1, len(sentences) - 1)][1]
                and sentences[max(i - 1, 0)][0] < high
                for low, high in near
            )
        ]
        for start, stop in random.sample(free, min(count, len(free))):
            premise = task.slots["premise" if task.family == "nli" else "first"]
            slots = {"premise": premise, "hypothesis": text[start:stop], "connective": ""}
            spans = (task.spans[0], (start, stop))
            found.append(Mined("nli", "neutral", slots, spans, f"unrelated {pair} {start}"))
    return found


def _near(task: Mined, mined: Sequence[Mined]) -> list[tuple[int, int]]:
    """Spans of the task and of every other one that quotes its premise."""
    low, high = task.spans[0]
    related = [
        other
        for other in mined
        if other is task
        or (
            other.family in ("nli", "paraphrase", "cause")
            and any(start < high and low < stop for start, stop in other.spans)
        )
    ]
    return [span for other in related for span in other.spans]
