"""A text and its mined tasks into reading comprehension: running text, or a conversation.

First the text is read, then come its tasks. How its title or its ending are asked for, which
templates are used and in which order the families come is drawn by (id, name of the choice). The
text itself is never changed: `Composed.read` says where each piece of it went, white space
included.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.comprehension.config import ComprehensionConfig
from data.comprehension.mined import Mined
from data.comprehension.page import ChatPage, Span, Task, TextPage
from data.comprehension.select import classifies
from data.comprehension.templates import Frame, Piece, Template, Templates
from data.document import Turn, draw, uniform

# The text of a section is given back as an answer only when it is short.
MAX_SECTION_ANSWER = 600
OPENING_WORDS, OPENING_CHARS = 12, 90
_LISTED = ("- ", "> ")
# Families whose slots begin where sentences do.
_WHOLE_SENTENCES = frozenset({"keyword", "question", "section"})


@dataclass(frozen=True)
class Passage:
    """What is read: a document or a part of one.

    Attributes:
        id: of the finished text.
        text: the whole, title line included.
        title: its title, if it has one.
        body: where the text under its title begins; 0 where the title is no line of the text.
        sentences: spans of the body's sentences in `text`.
    """

    id: str
    text: str
    title: str | None = None
    body: int = 0
    sentences: Sequence[Span] = ()


@dataclass
class Composed:
    """A finished text.

    Attributes:
        turns: one of role `text`, or a conversation.
        tasks: records for `meta.tasks`: family, label, question, answer, source_spans (in the text
            read), filter, and `places`: `[turn, start, stop]` of the question and of the answer.
        read: `[turn, start, stop, at]` for each piece of the text read, in its order: where it is
            and where in the text read it begins.
        layout: title, completion, both, neither, or raw.
    """

    turns: tuple[Turn, ...]
    tasks: list[dict[str, Any]]
    read: list[list[int]]
    layout: str


def ask(
    mined: Sequence[Mined], id: str, text: str, templates: Templates, config: ComprehensionConfig
) -> list[Task]:
    """The tasks of `text` in words, family by family; the families' order is drawn."""
    families: dict[str, list[Task]] = {}
    chosen: dict[str, Template] = {}
    for task in mined:
        slots = _as_read(task, text)
        if task.family == "section":
            slots = {**slots, "opening": _opening(slots["body"], templates)}
        group = _group(task, id, config)
        if group not in chosen:
            chosen[group] = _pick(templates.tasks[group], id, f"template {group}")
        template = chosen[group]
        if not _suits(template, task, templates):
            others = [item for item in templates.tasks[group] if _suits(item, task, templates)]
            template = _pick(others, id, f"other template {group}")
        question = templates.render(template.question, slots)
        pieces = template.answer(task.label)
        answer = templates.render(pieces, slots)
        apart = "\n" in answer or _ends_in_quotation(template, pieces)
        join = "\n" if apart else templates.behind(question)
        families.setdefault(task.family, []).append(
            Task(task.family, task.label, question, answer, task.spans, join)
        )
    order = list(families)
    if len(order) > 1:
        draw(id, "order of the families").shuffle(order)
    return [task for family in order for task in families[family]]


def compose(
    passage: Passage,
    tasks: Sequence[Task],
    templates: Templates,
    config: ComprehensionConfig,
    system: str | None = None,
) -> Composed:
    """The finished text; the text alone, as `raw`, where a conversation would have no question.

    `system` is the system prompt of a conversation.
    """
    layout = _layout(passage, config, some_task=bool(tasks))
    page: TextPage | ChatPage = TextPage()
    if config.form == "chat":
        page = ChatPage((Turn("system", system),) if system else ())
    frame = _frame(layout, passage, tasks, templates)
    text, title = passage.text, passage.title or ""
    whole = (0 if layout in ("neither", "completion") else passage.body, len(text))

    def mined() -> None:
        if tasks and config.intro and config.form == "text":
            page.say(_pick(templates.intros, passage.id, "intro"))
        for task in tasks:
            page.exchange(task)

    def asked_title(question: str) -> None:
        line = ((0, len(text[: passage.body].rstrip())),) if passage.body else ()
        if frame.tasks_first:
            mined()
        page.exchange(Task("title", "title", question, title, line, templates.behind(question)))
        if not frame.tasks_first:
            mined()

    question = templates.render(frame.ask, {"title": title})
    if layout == "title" and frame.gives_title:
        page.exchange(Task("title", "title", question, "", (whole,), "\n"), (text, whole))
        mined()
    elif layout == "title":
        page.say(frame.before)
        page.read(text, whole)
        asked_title(question)
    elif layout in ("completion", "both"):
        first, second = _halves(passage, whole)
        page.say(frame.before)
        page.read(text, first)
        join = _before(text, second, templates.behind(question))
        ending = Task("completion", "completion", question, "", (second,), join)
        page.exchange(ending, (text, second))
        if layout == "both":
            asked_title(frame.ask_title)
        else:
            mined()
    else:
        page.say(frame.before)
        page.read(text, whole)
        mined()
    turns = page.turns()
    if not turns:
        return Composed((Turn("text", text),), [], [[0, 0, len(text), 0]], "raw")
    return Composed(turns, page.tasks, page.pieces, layout)


# --- choices --------------------------------------------------------------------------------------


def _pick(items: Sequence[Any], id: str, choice: str) -> Any:
    return items[int(uniform(id, choice) * len(items))]


def _group(task: Mined, id: str, config: ComprehensionConfig) -> str:
    if task.family == "nli":
        return "nli.classify" if classifies(id, config) else f"nli.{task.label}"
    if task.family in ("cause", "paraphrase"):
        return f"{task.family}.{task.label}"
    return task.family


def _suits(template: Template, task: Mined, templates: Templates) -> bool:
    """Whether the template can be filled with this task's slots.

    A repeated connective has to open a sentence, a section that is given back has to be short, what
    is asked about as a statement has to be one, and what stands in quotation marks has none inside.
    """
    slots = task.slots
    if template.linked and slots["connective"] not in templates.links:
        return False
    if template.clause:
        connective = slots["connective"]
        if not connective[:1].isupper() and connective not in templates.clauses:
            return False
    if template.inverted and len(slots.get("body", "")) > MAX_SECTION_ANSWER:
        return False
    for name in template.quoted:
        slot = slots.get(name, "")
        if '"' in slot or "“" in slot or "„" in slot:
            return False
    return True


def _as_read(task: Mined, text: str) -> Mapping[str, str]:
    """The slots, those that begin with a small letter in the text with a small letter.

    Templates put a capital where they begin a sentence.
    """
    if task.family in _WHOLE_SENTENCES:
        return task.slots
    slots = dict(task.slots)
    for start, _ in task.spans:
        if text[start : start + 1].islower():
            for name, slot in slots.items():
                if slot[1:6] == text[start + 1 : start + 6] and slot[:1].isupper():
                    slots[name] = text[start] + slot[1:]
    return slots


def _layout(passage: Passage, config: ComprehensionConfig, *, some_task: bool) -> str:
    chances = config.layout
    titled = bool(passage.title) and config.families.title
    ending = len(passage.sentences) > 1 and config.families.completion
    number = uniform(passage.id, "layout")
    if titled and ending:
        weights = {
            "title": chances.title,
            "completion": chances.completion,
            "both": chances.both,
            "neither": chances.neither,
        }
    elif titled or ending:
        only = "title" if titled else "completion"
        weights = {only: chances.one, "neither": 1 - chances.one}
    else:
        return "neither"
    if config.form == "chat" and not some_task and len(weights) > 1:
        weights["neither"] = 0.0  # a conversation has to ask for something
    number *= sum(weights.values())
    for layout, weight in weights.items():
        number -= weight
        if number < 0:
            return layout
    return "neither"


def _frame(layout: str, passage: Passage, tasks: Sequence[Task], templates: Templates) -> Frame:
    group = layout
    if layout == "title" and uniform(passage.id, "text from title") < 0.5:
        group = "title.inverted"
    frames = templates.frames[group]
    if not tasks:  # nothing to announce
        frames = [frame for frame in frames if not frame.tasks_first]
    return _pick(frames, passage.id, f"frame {group}")


def _halves(passage: Passage, whole: Span) -> tuple[Span, Span]:
    """The text in two at a drawn sentence bound, not right under a heading where there is a choice.

    Line breaks at the bound stay with the first half; spaces and an indentation go with the second.
    """
    sentences, text = passage.sentences, passage.text
    ends = [i for i, (_, stop) in enumerate(sentences[:-1]) if not text[stop - 1].isalnum()]
    if ends:
        i = ends[int(uniform(passage.id, "cut") * len(ends))]
    else:
        i = int(uniform(passage.id, "cut") * (len(sentences) - 1))
    stop, start = sentences[i][1], sentences[i + 1][0]
    cut = text.rfind("\n", stop, start) + 1 or stop
    return (whole[0], cut), (cut, whole[1])


def _before(text: str, half: Span, join: str) -> str:
    """What stands between the question and the second half: its own space, if it has one."""
    start = half[0]
    if text[start - 1 : start] == "\n":
        return "\n"
    return "" if text[start].isspace() else join


def _opening(body: str, templates: Templates) -> str:
    """The first words of a section."""
    most = OPENING_CHARS if templates.join else OPENING_CHARS // 3  # characters stand for words
    words = body.split(None, OPENING_WORDS)
    text = " ".join(words[:OPENING_WORDS])
    if len(text) > most:
        text = text[:most].rpartition(" ")[0] or text[:most]
    return text if len(text) == len(body) else text + templates.more


def _ends_in_quotation(template: Template, answer: tuple[Piece, ...]) -> bool:
    """Whether the answer would run into a quotation or a list that it does not complete."""
    last = template.question[-1]
    if not isinstance(answer[0], str) and answer[0][1] == "rest":
        return False
    return not isinstance(last, str) or last.rpartition("\n")[2].startswith(_LISTED)
