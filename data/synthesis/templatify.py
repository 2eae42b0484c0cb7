"""Sets texts out with their pairs, as they are trained on: five modes, each way round.

    classic     the text, then pair after pair
    dialog      the text, then two speakers
    numbered    the text, then all questions by number, then all answers
    inline      the text, then a prompt with all pairs but the last as examples of it
    next_turn   the text, then a dialogue whose last reply is asked for

Inverted, the pairs come first and the text last. A `Layout` is drawn once for the texts of a lane that
are set out together, each part of it by a draw of its own from the id of the first, so no two parts go
together. Options are put into an order drawn from their document and question: every order is equally
likely. (The published code made every choice with one seed: inversion met one mode only, and the options
of a document's first question had the same order everywhere.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

from data.document import draw
from data.synthesis.config import TemplatesConfig
from data.synthesis.format import Shape, Task
from data.synthesis.templates import Inline, ItemStyle, Pattern, Templates

Mode = Literal["classic", "dialog", "numbered", "inline", "next_turn"]
Item = TypeVar("Item")

_CLOSED = (".", "!", "?", ";", ":", "。", "！", "？")


@dataclass(frozen=True)
class Layout:
    """All that is drawn for the texts of a lane. Wrappers hold the lines themselves, or nothing."""

    mode: Mode
    inverted: bool
    wrappers: dict[str, str]
    separator: str
    apart: str
    header: str
    item: ItemStyle
    terminator: str
    between: str
    labels: bool
    patterns: dict[Shape, Pattern]
    conclusion: str
    speakers: tuple[str, str]
    dialog_header: str
    numbering: ItemStyle
    heads: tuple[str, str]
    plain: Inline
    explained: Inline
    next_turn: tuple[str, str]


def draw_layout(
    id: str, templates: Templates, config: TemplatesConfig, *, least_pairs: int
) -> Layout:
    """The layout of texts whose first one is `id`.

    Args:
        id: of the first text; seeds every draw.
        templates: what to draw from.
        config: the chances of modes and of inversion.
        least_pairs: pairs of the text that has fewest; with a single one there is nothing to number, to
            show as an example, or to leave out, and the mode is classic or dialog.
    """

    def chance(name: str) -> float:
        return draw(id, f"synthesis: {name}").random()

    def one(name: str, items: Sequence[Item]) -> Item:
        return draw(id, f"synthesis: {name}").choice(items)

    wrappers = {}
    for name, wrapper in templates.wrappers.items():
        used = chance(f"{name}, whether") >= wrapper.empty
        wrappers[name] = one(name, wrapper.lines) if used else ""
    item = one("option item", templates.items)
    return Layout(
        mode=_mode(chance("mode"), config, least_pairs),
        inverted=chance("inversion") < config.invert,
        wrappers=wrappers,
        separator=one("separator", templates.separators),
        apart=one("apart", templates.apart),
        header=one("option header", templates.headers),
        item=item,
        terminator=one("option terminator", templates.terminators),
        between="\n" if item.numeral is None else one("option between", templates.between),
        labels=item.numeral is not None and chance("labels") < config.label_answers,
        patterns={kind: one(f"pattern {kind}", p) for kind, p in templates.patterns.items()},
        conclusion=one("conclusion", templates.conclusions),
        speakers=one("speakers", templates.speakers),
        dialog_header=one("dialog header", templates.dialog_headers),
        numbering=one("numbering", templates.numberings),
        heads=one("heads", templates.heads),
        plain=one("inline plain", templates.inline["plain"]),
        explained=one("inline explained", templates.inline["explained"]),
        next_turn=one("next turn", templates.next_turn),
    )


def _mode(drawn: float, config: TemplatesConfig, least_pairs: int) -> Mode:
    modes: tuple[Mode, ...] = get_args(Mode)
    chances = config.modes.model_dump()
    if least_pairs < 2:
        chances = {"classic": 1 - config.modes.dialog, "dialog": config.modes.dialog}
    for mode in modes:
        drawn -= chances.get(mode, 0)
        if drawn < 0:
            return mode
    return "classic"


@dataclass(frozen=True)
class _Said:
    """A task in the words of a layout: what is asked (options with it), and what is answered."""

    task: Task
    question: str
    answer: str
    options: str

    @property
    def asked(self) -> str:
        """Question and options in one."""
        return f"{self.question}\n{self.options}" if self.options else self.question


def set_out(
    text: str, tasks: Sequence[Task], layout: Layout, document_id: str, templates: Templates
) -> str:
    """One text with its pairs.

    Args:
        text: what the pairs are about.
        tasks: one at least.
        layout: of the lane.
        document_id: the text's own document; seeds the orders of options.
        templates: which questions need their options.

    Raises:
        ValueError: there are no tasks.
    """
    if not tasks:
        raise ValueError(f"tasks: text {document_id} has none; it stays as it is")
    said = [_say(task, layout, document_id, templates) for task in tasks]
    mode = _MODES[layout.mode if len(said) > 1 or layout.mode == "dialog" else "classic"]
    pairs = mode(said, layout)
    wrap = layout.wrappers
    if layout.inverted:
        parts = [wrap["inverted_start"], pairs, wrap["inverted_end"]]
        parts.append(_lines(wrap["text_start"], text))
    else:
        parts = [_lines(wrap["read_start"], text), _lines(wrap["comprehension_start"], pairs)]
    return "\n\n".join(part for part in parts if part)


def order_of(num_options: int, document_id: str, question: str) -> list[int]:
    """The order in which options are shown; uniform over all orders, drawn by document and question."""
    order = list(range(num_options))
    draw(document_id, f"synthesis: order of options: {question}").shuffle(order)
    return order


# --- options --------------------------------------------------------------------------------------


def _say(task: Task, layout: Layout, document_id: str, templates: Templates) -> _Said:
    """The task's words; its options in their order, and its answer by label where they are shown."""
    if not task.options:
        return _Said(task, task.question, task.answer, "")
    if layout.mode == "classic" and not layout.patterns[task.shape].shows_options:
        folded = task.question.casefold()
        if not any(word in folded for word in templates.needed_by):
            return _Said(task, task.question, task.answer, "")
    order = order_of(len(task.options), document_id, task.question)
    shown = [task.options[i] for i in order]
    items = [f"{layout.item.mark(i)}{_ended(o, layout)}" for i, o in enumerate(shown)]
    block = layout.between.join([layout.header, *items])
    at = shown.index(task.answer)
    labelled = layout.labels and (layout.mode != "classic" or _labels_follow(task, layout))
    answer = (layout.item.name(at) if labelled else "") or task.answer
    return _Said(task, task.question, answer, block)


def _labels_follow(task: Task, layout: Layout) -> bool:
    """Whether a pattern answers behind its options: before them a label says nothing."""
    text = layout.patterns[task.shape].text
    return text.find("{options}") < text.index("{answer}")


def _ended(option: str, layout: Layout) -> str:
    return option if option.endswith(_CLOSED) else option + layout.terminator


# --- modes ----------------------------------------------------------------------------------------


def _classic(said: Sequence[_Said], layout: Layout) -> str:
    return layout.apart.join(_pair(item, layout) for item in said)


def _pair(item: _Said, layout: Layout) -> str:
    pattern = layout.patterns[item.task.shape]
    question = item.question
    if item.options and not pattern.shows_options:
        question = item.asked
    return pattern.text.format(
        question=question,
        answer=item.answer,
        rationale=item.task.rationale,
        options=item.options,
    ).strip()


def _answered(item: _Said, layout: Layout) -> str:
    """The answer in one breath, its chain of thought before it."""
    if not item.task.rationale:
        return item.answer
    return f"{item.task.rationale} {layout.conclusion.format(answer=item.answer)}"


def _dialog(said: Sequence[_Said], layout: Layout) -> str:
    names = _names(layout)
    return "\n".join([layout.dialog_header.format(**names), *_turns(said, layout)])


def _turns(said: Sequence[_Said], layout: Layout) -> list[str]:
    asker, teller = layout.speakers
    return [
        turn
        for item in said
        for turn in (f"{asker}{item.asked}", f"{teller}{_answered(item, layout)}")
    ]


def _names(layout: Layout) -> dict[str, str]:
    asker, teller = (speaker.strip(" :[]<>*-") for speaker in layout.speakers)
    return {"asker": asker, "teller": teller}


def _numbered(said: Sequence[_Said], layout: Layout) -> str:
    mark = layout.numbering.mark
    questions = [f"{mark(i)}{item.asked}" for i, item in enumerate(said)]
    answers = [f"{mark(i)}{_answered(item, layout)}" for i, item in enumerate(said)]
    first, second = layout.heads
    return "\n".join([first, *questions]) + "\n\n" + "\n".join([second, *answers])


def _inline(said: Sequence[_Said], layout: Layout) -> str:
    with_reasons = any(item.task.rationale for item in said)
    form = layout.explained if with_reasons else layout.plain
    shown = [
        form.shows.format(
            question=item.asked,
            answer=item.answer,
            because=form.because.format(rationale=item.task.rationale) * bool(item.task.rationale),
        )
        for item in said[:-1]
    ]
    last = said[-1]
    asks = form.asks.format(question=last.asked)
    return "\n\n".join([form.intro, *shown, f"{asks}\n{_answered(last, layout)}"])


def _next_turn(said: Sequence[_Said], layout: Layout) -> str:
    names = _names(layout)
    intro, asks = (line.format(**names) for line in layout.next_turn)
    *turns, last = _turns(said, layout)
    return f"{intro}\n\n" + "\n".join(turns) + f"\n\n{asks}\n{last}"


_MODES = {
    "classic": _classic,
    "dialog": _dialog,
    "numbered": _numbered,
    "inline": _inline,
    "next_turn": _next_turn,
}


def _lines(*parts: str) -> str:
    return "\n".join(part for part in parts if part)
