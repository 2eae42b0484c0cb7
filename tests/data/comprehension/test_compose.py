"""Composition: what stands where, what is drawn, and that the text read is never touched."""

import dataclasses
import itertools
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.comprehension.compose import Passage, ask, compose
from data.comprehension.config import ComprehensionConfig, LayoutConfig
from data.comprehension.language import load_language
from data.comprehension.mined import Mined
from data.comprehension.select import select, unrelated
from data.comprehension.sentences import split_sentences
from data.comprehension.templates import load_templates
from data.document import Turn
from tests.data.comprehension.made import BODY, PASSAGE, SENTENCES, TASKS, TEXT, TITLE, mined

GOLDEN = Path(__file__).parent / "golden"
EN = load_templates("en", "biology")


def config(layout=None, **settings):
    if layout:
        chances = dict.fromkeys(("title", "completion", "both", "neither"), 0.0)
        settings["layout"] = LayoutConfig(**chances | {layout: 1.0})
    return ComprehensionConfig(language="en", **settings)


def composed(settings, *, id="ice", tasks=TASKS, templates=EN, passage=PASSAGE, system=None):
    passage = dataclasses.replace(passage, id=id)
    chosen, _ = select(tasks, id, settings, passage.text, passage.sentences)
    asked = ask(chosen, id, passage.text, templates, settings)
    return compose(passage, asked, templates, settings, system)


def golden(name, turns):
    """Compares with the file of that name; LECTERN_WRITE_GOLDEN=1 writes it, to be read again."""
    shown = "\n".join(
        turn.text if turn.role == "text" else f"[{turn.role}]\n{turn.text}" for turn in turns
    )
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("LECTERN_WRITE_GOLDEN"):
        path.write_text(shown + "\n", encoding="utf-8")
    assert shown + "\n" == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("layout", ["title", "completion", "both", "neither"])
@pytest.mark.parametrize("form", ["text", "chat"])
def test_the_finished_text_reads_as_the_golden_one(layout, form):
    golden(f"{layout}_{form}", composed(config(layout, form=form)).turns)


def test_the_text_is_given_from_its_title_as_well():
    asked = {}
    for n in range(20):
        result = composed(config("title"), id=f"ice{n}")
        asked[result.tasks[0]["answer"] if result.tasks else None] = result
    assert {BODY, TITLE} & set(asked) == {BODY, TITLE}
    golden("title_inverted_text", asked[BODY].turns)
    golden("title_direct_text", asked[TITLE].turns)


def pieces(result):
    return [result.turns[turn].text[low:high] for turn, low, high, _ in result.read]


blocks = st.lists(
    st.sampled_from(["Cells grow.", "Mice eat", "  ", "\n", "\n\n    ", " \n", "老鼠。", "?"]),
    min_size=1,
    max_size=12,
).map("".join)


@given(blocks, st.sampled_from(["title", "completion", "both", "neither"]), st.integers(0, 99))
def test_every_character_read_is_in_the_text_once_and_in_order(body, layout, seed):
    text = f"{TITLE}\n{body}"
    at = len(TITLE) + 1
    spans = [(low + at, high + at) for low, high in split_sentences(body, load_language("en"))]
    passage = Passage(f"p{seed}", text, TITLE, at, spans)
    result = compose(passage, [], EN, config(layout))
    asked = [task for task in result.tasks if task["family"] == "title"]
    assert "".join(pieces(result)) == (body if asked else text)
    assert not asked or asked[0]["answer"] in (TITLE, body)
    ats = [piece[3] for piece in result.read]
    assert ats[0] == (at if asked else 0)
    assert ats == sorted(ats)

    chat = compose(passage, [], EN, config(layout, form="chat"))
    said = "".join(pieces(chat))
    assert "".join(said.split()) in ("".join(body.split()), "".join(text.split()))
    for _, low, high, start in chat.read:
        assert text[start : start + high - low] in pieces(chat)


@pytest.mark.parametrize("form", ["text", "chat"])
def test_records_say_where_questions_answers_and_sources_are(form):
    for seed in range(30):
        result = composed(config(form=form), id=f"ice{seed}")
        for task in result.tasks:
            (turn, low, high), (turn_of_answer, start, stop) = task["places"]
            assert result.turns[turn].text[low:high] == task["question"]
            assert result.turns[turn_of_answer].text[start:stop] == task["answer"]
            for span in task["source_spans"]:
                assert 0 <= span[0] < span[1] <= len(TEXT)
            assert set(task) == {
                *("family", "label", "question", "answer", "source_spans", "filter", "places")
            }
        for (_, low, high, at), piece in zip(result.read, pieces(result), strict=True):
            assert TEXT[at : at + high - low] == piece


def test_columns_and_indentation_are_kept():
    for seed in range(20):
        text = composed(config(), id=f"ice{seed}").turns[0].text
        assert "    depth    water\n    200 m    -1.9 °C\n" in text


def test_layouts_come_with_their_chances():
    counts = Counter(composed(config(), id=f"d{n}", tasks=()).layout for n in range(2000))
    for layout, chance in (("title", 0.4), ("both", 0.4), ("completion", 0.1), ("neither", 0.1)):
        assert abs(counts[layout] / 2000 - chance) < 0.035
    one = dataclasses.replace(PASSAGE, sentences=SENTENCES[:1])
    counts = Counter(
        composed(config(), id=f"d{n}", tasks=(), passage=one).layout for n in range(1000)
    )
    assert set(counts) == {"title", "neither"}
    assert 420 < counts["title"] < 580
    untitled = dataclasses.replace(PASSAGE, title=None, body=0)
    counts = Counter(
        composed(config(), id=f"d{n}", tasks=(), passage=untitled).layout for n in range(1000)
    )
    assert set(counts) == {"completion", "neither"}
    assert 420 < counts["completion"] < 580


def test_no_choice_decides_another():
    """Layout, template, intro and cut of many documents are independent of each other."""
    pairs = Counter()
    for n in range(1500):
        result = composed(config(), id=f"d{n}")
        labels = {task["label"] for task in result.tasks}
        pairs[result.layout in ("both", "completion"), "entail" in labels] += 1
    total = sum(pairs.values())
    for first in (True, False):
        share = sum(pairs[first, other] for other in (True, False)) / total
        twin = sum(pairs[other, True] for other in (True, False)) / total
        assert abs(pairs[first, True] / total - share * twin) < 0.03


def test_every_choice_has_a_draw_of_its_own(monkeypatch):
    from data.comprehension import compose as compose_module
    from data.comprehension import select as select_module
    from data.document import draw, uniform

    names = Counter()
    for module in (compose_module, select_module):
        for function in (uniform, draw):

            def noted(id, choice, function=function):
                names[choice] += 1
                return function(id, choice)

            monkeypatch.setattr(module, function.__name__, noted)
    tasks = [*TASKS, *many("entail", 4)]
    for seed in range(50):
        names.clear()
        composed(config(negatives=1.0), id=f"d{seed}", tasks=tasks)
        assert len(names) > 8
        # Whether inference asks for the relation is one choice, looked up by every task.
        assert {name for name, count in names.items() if count > 1} <= {"classify or generate"}


def test_nothing_depends_on_the_order_or_number_of_documents():
    alone = composed(config(), id="d7").turns
    for n in range(9):
        again = composed(config(), id=f"d{n}").turns
        assert n != 7 or again == alone


@pytest.mark.parametrize("layout", ["title", "both", "neither", "completion"])
def test_a_text_without_tasks_announces_none(layout):
    for n in range(60):
        result = composed(config(layout), id=f"d{n}", tasks=())
        text = result.turns[0].text.lower()
        assert not any(intro.lower() in text for intro in EN.intros)
        assert "question" not in text
        assert "asked" not in text
        assert "task" not in text


def test_a_conversation_always_has_a_question():
    settings = config("neither", form="chat")
    result = composed(settings, tasks=())
    assert result.layout == "raw"
    assert result.turns == (Turn("text", TEXT),)
    assert pieces(result) == [TEXT]
    turns = composed(config(form="chat"), tasks=()).turns
    assert [turn.role for turn in turns[:2]] == ["user", "assistant"]
    assert {composed(config(form="chat"), id=f"d{n}", tasks=()).layout for n in range(200)} == {
        "title",
        "both",
        "completion",
    }


def test_twins_are_parted_by_a_draw():
    counts = Counter()
    for n in range(400):
        chosen, left_out = select(TASKS, f"d{n}", config(), TEXT, SENTENCES)
        labels = [task.label for task in chosen]
        assert ("entail" in labels) != ("cause_effect" in labels)
        assert ("contradict" in labels) != ("different" in labels)
        assert left_out == {"family turned off": 0, "twin": 2, "over the cap": 0}
        counts["entail" in labels, "contradict" in labels] += 1
    assert all(60 < count < 140 for count in counts.values())
    assert len(counts) == 4


def many(label, count):
    return [
        mined("nli", label, f"{label}{i}", premise=TITLE, hypothesis=TITLE, connective="However")
        for i in range(count)
    ]


def test_the_cap_is_drawn_evenly():
    tasks = many("entail", 6)
    kept = Counter()
    for n in range(600):
        chosen, left_out = select(tasks, f"d{n}", config(), TEXT, SENTENCES)
        assert len(chosen) == 2
        assert left_out["over the cap"] == 4
        assert [task.pair for task in chosen] == sorted(task.pair for task in chosen)
        kept.update(task.pair for task in chosen)
    assert len(kept) == 6
    assert max(kept.values()) < 1.5 * min(kept.values())
    assert len(select(tasks, "d", config(max_per_label=0), TEXT, SENTENCES)[0]) == 6


def test_balance_keeps_as_many_as_of_the_rarest_label():
    tasks = [*many("entail", 2), *many("neutral", 1), *many("contradict", 2)]
    chosen, _ = select(tasks, "d", config(balance=True), TEXT, SENTENCES)
    assert Counter(task.label for task in chosen) == {"entail": 1, "neutral": 1, "contradict": 1}


def test_negatives_are_neutral_pairs_that_nothing_relates():
    settings = config(negatives=1.0, classify=1.0, max_per_label=0)
    plain, _ = select(TASKS, "d", config(classify=1.0), TEXT, SENTENCES)
    chosen, _ = select(TASKS, "d", settings, TEXT, SENTENCES)
    extra = [task for task in chosen if task.label == "neutral"]
    assert extra
    assert len(chosen) == len(plain) + len(extra)
    for task in extra:
        (_, _), (start, stop) = task.spans
        assert (start, stop) in SENTENCES
        assert task.slots["hypothesis"] == TEXT[start:stop]
        assert OXYGEN_PAIRS.isdisjoint({TEXT[start:stop]})
    assert unrelated(TASKS, "d", config(negatives=0.0), TEXT, SENTENCES) == []
    generate = config(negatives=1.0, classify=0.0)
    assert not [t for t in select(TASKS, "d", generate, TEXT, SENTENCES)[0] if t.label == "neutral"]


OXYGEN_PAIRS = {  # what is in or next to a sentence of a pair that begins with the first premise
    "Their blood has no red cells.",
    "Therefore, it carries little oxygen.",
}


def test_inference_asks_for_the_relation_in_the_recipes_share():
    tasks = [task for task in TASKS if task.label == "entail"]
    answers = Counter()
    for n in range(800):
        [record] = [
            t for t in composed(config(), id=f"d{n}", tasks=tasks).tasks if t["family"] == "nli"
        ]
        answers[record["answer"] in ("Yes", "Therefore", "Entailment")] += 1
    assert abs(answers[True] / 800 - 0.8) < 0.05


def test_a_family_can_be_turned_off():
    families = dict.fromkeys(("nli", "keyword", "title", "completion"), False)
    settings = ComprehensionConfig.model_validate({"language": "en", "families": families})
    for n in range(20):
        result = composed(settings, id=f"d{n}")
        assert not {task["family"] for task in result.tasks} & families.keys()
        assert result.layout == "neither"


def test_one_template_per_family_and_document():
    tasks = [
        mined("question", "number", f"q{i}", question=f"What is number {i}?", answer=f"{i}.")
        for i in range(2)
    ]
    for n in range(40):
        first, second = (
            task["question"].replace("1", "0")
            for task in composed(config("neither"), id=f"d{n}", tasks=tasks).tasks
        )
        assert first == second


def test_connectives_are_repeated_only_where_they_open_a_sentence():
    slots = {"premise": "The cells grow.", "hypothesis": "They divide.", "connective": "because"}
    tasks = [mined("nli", "entail", "x", **slots)]
    for n in range(300):
        for task in composed(config("neither", classify=0.0), id=f"d{n}", tasks=tasks).tasks:
            assert "because," not in task["question"]


FOREIGN = {
    "zh": (
        "生物学",
        (
            "冰鱼",
            "冰鱼生活在最冷的海里。",
            "它的血液没有红细胞。",
            "因此，血液携带的氧很少。",
            "海水含氧多。",
        ),
        {"premise": "它的血液没有红细胞", "hypothesis": "血液携带的氧很少", "connective": "因此"},
        {"sentence": "它的血液没有红细胞。", "keywords": "血液、红细胞"},
        {"question": "海水含氧多不多？", "answer": "多。"},
    ),
    "de": (
        "Biologie",
        (
            "Eisfische",
            "Eisfische leben im Eismeer. ",
            "Ihr Blut ist farblos. ",
            "Deshalb hat es wenig Sauerstoff. ",
            "Im Wasser ist viel davon.",
        ),
        {
            "premise": "Ihr Blut ist farblos",
            "hypothesis": "es hat wenig Sauerstoff",
            "connective": "",
        },
        {"sentence": "Eisfische leben im Eismeer.", "keywords": "Eisfische, Eismeer"},
        {"question": "Wo ist viel Sauerstoff?", "answer": "Im Wasser."},
    ),
}


def test_what_is_no_statement_is_not_asked_about_as_one():
    slots = {"cause": "Old age.", "effect": "Hip fractures.", "connective": "are caused by"}
    phrase = mined("cause", "effect_cause", "x", **slots)
    clause = dataclasses.replace(phrase, slots={**slots, "connective": "because"})

    def questions(task):
        texts = [composed(config("neither"), id=f"d{n}", tasks=[task]) for n in range(400)]
        return {text.tasks[0]["question"] for text in texts}

    assert questions(phrase) < questions(clause)
    assert "Hip fractures. Why is that so?" in questions(clause) - questions(phrase)


@pytest.mark.parametrize("language", sorted(FOREIGN))
def test_other_languages_read_as_the_golden_ones(language):
    domain, (title, *sentences), relation, words, asked = FOREIGN[language]
    text = f"{title}\n" + "".join(sentences)
    ends = list(itertools.accumulate(map(len, sentences), initial=len(title) + 1))
    spans = [(a, a + len(s.strip())) for a, s in zip(ends, sentences, strict=False)]
    tasks = [
        Mined("nli", "entail", relation, (spans[1], spans[2]), "a"),
        Mined("keyword", "keyword", words, (spans[0],), "b"),
        Mined("question", "number", asked, (spans[3],), "c"),
    ]
    templates = load_templates(language, domain)
    passage = Passage("ice", text, title, len(title) + 1, spans)
    for layout in ("both", "neither"):
        settings = config(layout)
        result = compose(passage, ask(tasks, "ice", text, templates, settings), templates, settings)
        golden(f"{layout}_{language}", result.turns)
