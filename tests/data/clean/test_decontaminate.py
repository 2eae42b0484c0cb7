"""Test items are found wherever they are, and nothing else is."""

import random

import pytest

from data.benchmarks import Item, read_items
from data.clean.config import CleanConfig, ContaminationConfig
from data.clean.decontaminate import TestItems
from tests.data.clean.judged import Judged, conversation, judge, text

CONFIG = ContaminationConfig()
LONG = (
    "A farmer packs seventeen crates of apples before noon and sends nine of them to the market; "
    "how many crates are left in the barn at night?"
)
SHORT = "Can lichens grow on bare basalt?"
TINY = "Is chalk soluble?"


def items(*found: Item, config: ContaminationConfig = CONFIG, **more: list[Item]) -> TestItems:
    return TestItems.of({"task": list(found), **more}, config)


def prose(seed: int, words: int = 120) -> str:
    rng = random.Random(seed)
    return " ".join(f"p{rng.randrange(4000)}" for _ in range(words))


def around(planted: str, seed: int) -> str:
    return f"{prose(seed)}. {planted} {prose(seed + 1)}."


def disguises(question: str) -> dict[str, str]:
    words = question.split()
    return {
        "verbatim": question,
        "re-cased": question.upper(),
        "re-wrapped": "  ".join(words[:4]) + "\t" + "\n   ".join(words[4:]),
        "split over lines": "\n".join(words),
        "other marks": question.replace(";", ",").replace("?", "…").replace(",", " -"),
    }


def found(judged: Judged) -> dict[str, int]:
    removed = judged.tallies["c"].counts.get("removed", {})
    return removed.get("decontaminate", {})


@pytest.mark.parametrize("question", [LONG, SHORT])
@pytest.mark.parametrize("disguise", list(disguises(LONG)))
def test_a_question_is_found_however_it_is_written(question, disguise):
    planted = disguises(question)[disguise]
    test = items(Item("7", question, answers=("eight",)))
    documents = [text(around(planted, 1)), text(planted), conversation(planted, prose(5))]
    documents += [conversation(prose(6), around(planted, 7)), text(prose(8))]
    judged = judge({"c": documents}, items=test)
    assert judged.ids == {documents[-1].id}
    assert set(judged.reasons("c").values()) == {"task: item 7"}


def test_thirteen_words_in_a_row_are_enough_and_twelve_are_not():
    words = LONG.split()
    test = items(Item("1", LONG))
    part = text(around(" ".join(words[5:18]), 1))
    less = text(around(" ".join(words[5:17]), 3))
    assert judge({"c": [part, less]}, items=test).ids == {less.id}


def test_a_short_question_counts_only_whole():
    test = items(Item("1", SHORT))
    part = text(around("Can lichens grow on bare rock?", 1))
    assert judge({"c": [part]}, items=test).ids == {part.id}


def test_a_tiny_question_is_a_sentence_of_its_own_or_has_its_answer_beside_it():
    test = items(Item("1", TINY, answers=("hardly at all in rain",)))
    alone = text(around(TINY, 1))
    lines = text(around("\nIS\nCHALK\nsoluble?\n", 3))
    answered = text(around(f"or is chalk soluble or not: hardly at all in rain {prose(2)}", 5))
    inside = text(around("we asked whether it is chalk soluble salts come from", 7))
    assert judge({"c": [alone, lines, answered, inside]}, items=test).ids == {inside.id}


def test_tiny_questions_in_chinese_and_with_signs():
    test = items(Item("1", "何为痛风？"[1:]), Item("2", "Is $5 enough?"[3:]))
    documents = [text("他问道：为痛风？" + prose(1)), text(f"{prose(2)}. $5 enough? {prose(3)}")]
    assert not judge({"c": documents}, items=test).ids


def test_one_word_is_no_question():
    test = items(Item("1", "dresser", answers=("wood with a finish of wax",)))
    word = text("The dresser.\nDresser\n" + prose(1))
    both = text("A dresser needs wood with a finish of wax. " + prose(2))
    assert judge({"c": [word, both]}, items=test).ids == {word.id}


CONTEXT = prose(99, 60)
CONCLUSION = "We conclude that basalt is grown over by lichens within nine or ten wet summers."


def test_a_context_counts_only_with_its_conclusion_and_is_counted_without():
    test = items(Item("1", SHORT, ("yes", "no"), ("yes",), CONTEXT, conclusion=CONCLUSION))
    passage = text(f"Title. {CONTEXT} {prose(1)} yes")
    whole = text(f"Title. {CONTEXT} {CONCLUSION}")
    alone = text(f"{prose(2)} {CONCLUSION}")
    judged = judge({"c": [passage, whole, alone]}, items=test)
    assert judged.ids == {passage.id, alone.id}
    card = judged.verdicts.contamination("c")["task"]
    assert (card["documents"], card["context_only"], card["found"]) == (1, 1, 1)


def test_labels_are_no_answers_and_texts_are():
    """`yes` beside a passage gives nothing away; a name that only one item has does."""
    labelled = [
        Item(str(i), f"{SHORT} {i}", ("yes", "no"), ("yes",), prose(i, 40)) for i in range(10)
    ]
    named = Item("n", SHORT, (), ("Xanthoria parietina",), CONTEXT)
    kept = text(f"{prose(3, 40)} yes")
    gone = text(f"{CONTEXT} xanthoria Parietina")
    assert judge({"c": [kept, gone]}, items=items(*labelled, named)).ids == {kept.id}


def test_a_phrase_in_many_documents_is_ignored_and_listed():
    phrase = " ".join(f"common{i}" for i in range(13))
    test = items(Item("1", f"{phrase} {prose(500, 20)}"))
    ten = [text(f"{phrase} {prose(i)}") for i in range(10)]
    judged = judge({"c": ten}, items=test)
    assert found(judged) == {"task": 10}
    eleven = [*ten, text(f"{phrase} {prose(10)}")]
    judged = judge({"c": eleven}, items=test)
    assert len(judged.ids) == 11
    card = judged.verdicts.contamination("c")["task"]
    assert card["common"] == [{"words": phrase, "documents": 11}]
    assert judge({"c": eleven}, {"contamination": {"max_documents": 11}}, items=test).ids == set()


def test_copies_of_one_document_do_not_make_an_item_common():
    documents = [text(around(LONG, 1))] * 30
    judged = judge({"c": documents}, items=items(Item("1", LONG)))
    assert not judged.ids
    assert found(judged) == {"task": 30}


def test_the_words_of_a_prompt_that_all_items_share_find_nothing():
    prompt = " ".join(f"prompt{i}" for i in range(20))
    test = items(*(Item(str(i), f"{prompt} {prose(i, 20)}") for i in range(50)))
    documents = [text(f"{prompt} {prose(77)}"), text(f"{prose(3, 20)} {prose(78)}")]
    assert judge({"c": documents}, items=test).ids == {documents[0].id}


def test_what_is_removed_for_an_item_keeps_no_copy_away():
    words = around(LONG, 1).split()
    planted = text(" ".join(words))
    # A copy of it in which no 13 words of the item are left, but most of the rest.
    changed = text(" ".join(w for i, w in enumerate(words) if w.startswith("p")))
    judged = judge({"c": [planted, changed]}, items=items(Item("1", LONG)))
    assert judged.ids == {changed.id}


def test_held_out_documents_stay():
    from data.split import is_held_out

    group = next(f"g{i}" for i in range(99) if is_held_out(f"g{i}", 0.3))
    judged = judge({"c": [text(LONG, group=group)]}, fraction=0.3, items=items(Item("1", LONG)))
    assert judged.verdicts.contamination("c")["task"]["documents"] == 0


def test_items_of_all_tasks_are_counted_under_their_own():
    test = items(Item("1", LONG), other=[Item("x", SHORT)])
    judged = judge({"c": [text(around(LONG, 1)), text(around(SHORT, 3))]}, items=test)
    assert found(judged) == {"task": 1, "other": 1}


def test_a_task_that_cannot_be_read_is_an_error(tmp_path):
    config = CleanConfig.model_validate({"decontaminate": [{"task": "mqp", "path": "none.csv"}]})
    with pytest.raises(ValueError, match=r"clean\.decontaminate\[0\]: task mqp.*none\.csv"):
        TestItems.read(config)
    config = CleanConfig.model_validate({"decontaminate": ["no_such_task"]})
    with pytest.raises(ValueError, match="no task 'no_such_task'"):
        TestItems.read(config)


# --- against real tasks and text ------------------------------------------------------------------


@pytest.mark.parametrize("task", ["mqp", "pubmedqa", "gsm8k", "arc_easy"])
def test_planted_questions_of_real_tasks_are_found(realdata, monkeypatch, task):
    monkeypatch.setenv("LECTERN_REALDATA", str(realdata))
    chosen = random.Random(task).sample(list(read_items(task)), 60)
    planted = {}
    for i, item in enumerate(chosen):
        for name, written in disguises(random.Random(i).choice(item.questions)).items():
            if name != "other marks":
                planted[text(around(written, i)).id] = text(around(written, i))
    config = {"decontaminate": [task], "dedup": {"enabled": False}}
    judged = judge({"c": list(planted.values())}, config)
    assert len(judged.ids) <= 0.01 * len(planted), [
        d.turns[0].text[500:900] for d in judged.kept["c"][:3]
    ]


def test_the_contaminated_instructions_are_found(realdata, monkeypatch):
    import gzip
    import json

    monkeypatch.setenv("LECTERN_REALDATA", str(realdata))

    def rows(name: str) -> list[dict[str, str]]:
        return json.loads(gzip.open(realdata / "general" / f"{name}.json.gz").read())

    questions = {row["instruction"] for row in rows("gsm8k.test")}
    documents = [
        conversation(row["instruction"], row["output"] or "-") for row in rows("math_instructions")
    ]
    config = {"decontaminate": ["gsm8k"], "dedup": {"enabled": False}}
    judged = judge({"c": documents}, config)
    verbatim = [d for d in documents if d.turns[0].text in questions]
    assert len(verbatim) == 1055
    assert not judged.ids & {d.id for d in verbatim}
    assert found(judged)["gsm8k"] <= 1.01 * len(verbatim)


def test_hardly_a_medical_page_is_taken_for_a_test_item(realdata, monkeypatch):
    import gzip
    import json

    monkeypatch.setenv("LECTERN_REALDATA", str(realdata))
    with gzip.open(realdata / "medquad.jsonl.gz", "rt") as file:
        pages = [json.loads(line) for line in file][::8]
    documents = [text(f"{p['focus']}\n{p['answer']}") for p in pages]
    config = {"decontaminate": ["mqp", "pubmedqa"], "dedup": {"enabled": False}}
    judged = judge({"c": documents}, config)
    assert sum(found(judged).values()) <= 0.001 * len(documents)
