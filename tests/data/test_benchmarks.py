"""The items of tasks: from files of the published shapes, and errors instead of gaps."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from data import benchmarks, formats
from data.benchmarks import TASKS, Item, read_items, read_task, task_names

DOMAIN = {
    "pubmedqa", "chemprot", "mqp", "rct", "usmle",
    "convfinqa", "fpb", "fiqa_sa", "headline", "ner",
    "scotus", "casehold", "unfair_tos",
}  # fmt: skip
GENERAL = {"gsm8k", "arc_challenge", "arc_easy", "boolq", "piqa", "openbookqa", "winogrande"}


def task(folder: Path, given: list[dict[str, Any]] | str, **source: Any) -> str:
    """A task file over a JSONL file of rows, or over the path given."""
    if not isinstance(given, str):
        data = folder / "rows.jsonl"
        data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in given))
        given = str(data)
    file = folder / "made.yaml"
    sources = {"made": {"path": given, "fields": {"question": "question"}, **source}}
    file.write_text(yaml.safe_dump({"data": {"sources": sources}, "metric": "accuracy"}))
    return str(file)


def test_there_is_a_file_for_every_task_and_each_is_valid():
    assert set(task_names()) >= DOMAIN | GENERAL
    for name in task_names():
        content = yaml.safe_load((TASKS / f"{name}.yaml").read_text())
        benchmarks.TaskData.model_validate(content["data"])


def test_keys_beside_data_are_for_others(tmp_path):
    assert [i.question for i in read_items(task(tmp_path, [{"question": "Why?"}]))] == ["Why?"]


def test_the_published_shape_of_a_choice(tmp_path):
    rows = [
        {"id": 7, "input": "Is it so?", "options": ["yes", "no", "maybe"], "gold_index": 1},
        {"id": 8, "input": "And is it?", "options": ["yes", "no"], "gold_index": 0},
    ]
    fields = {"id": "id", "question": "input", "options": "options", "gold": "gold_index"}
    first, second = read_items(task(tmp_path, rows, fields=fields))
    assert first == Item("7", "Is it so?", ("yes", "no", "maybe"), ("no",), gold=(1,))
    assert (second.options, second.answers) == (("yes", "no"), ("yes",))


def test_gold_may_be_a_list_and_rows_may_be_grouped(tmp_path):
    rows = [
        {"question": "Which?", "options": ["a", "b", "c"], "gold": [2, 0], "class_id": 3},
        {"question": "Which?", "options": ["a", "b", "c"], "gold": [], "class_id": 4},
    ]
    fields = {"question": "question", "options": "options", "gold": "gold", "group": "class_id"}
    first, second = read_items(task(tmp_path, rows, fields=fields))
    assert (first.gold, first.answers, first.group) == ((2, 0), ("c", "a"), "3")
    assert (second.gold, second.answers) == ((), ())


def test_an_exam_has_letters_for_answers_and_types_of_questions(tmp_path):
    options = {"A": "heart", "B": "lung", "C": "knee", "D": "liver"}
    rows = [
        {"question": "In the chest?", "option": options, "answer": "AB", "type": "multiple"},
        {"question": "In the leg?", "option": options, "answer": "C", "type": "single"},
        {"question": "In the belly?", "option": options, "answer": "D、A", "type": "multiple"},
    ]
    fields = {"question": "question", "options": "option", "answer": "answer", "kind": "type"}
    items = list(read_items(task(tmp_path, rows, fields=fields)))
    assert [item.gold for item in items] == [(0, 1), (2,), (3, 0)]
    assert items[0].answers == ("heart", "lung")
    assert [item.kind for item in items] == ["multiple", "single", "multiple"]
    rows = [rows[0] | {"answer": "AZ"}]
    with pytest.raises(ValueError, match="'AZ' is none of the options"):
        list(read_items(task(tmp_path, rows, fields=fields)))


def test_options_may_have_a_field_each(tmp_path):
    rows = [{"question": "Which?", "opa": "x", "opb": "y", "cop": 1}]
    fields = {"question": "question", "options": ["opa", "opb"], "gold": "cop"}
    (item,) = read_items(task(tmp_path, rows, fields=fields))
    assert (item.options, item.gold, item.answers) == (("x", "y"), (1,), ("y",))


def test_every_candidate_may_have_a_prompt_of_its_own(tmp_path):
    row = {
        "id": 1,
        "input_options": ["see A v. B", "see C v. D"],
        "output": "holding",
        "gold_index": 1,
    }
    published = yaml.safe_load((TASKS / "casehold.yaml").read_text())["data"]["sources"][
        "published"
    ]
    (item,) = read_items(task(tmp_path, [row], fields=published["fields"]))
    assert item.options == ("see A v. B", "see C v. D")
    assert item.answers == ("see C v. D",)
    assert item.continuation == "holding"
    assert item.question == "see A v. B"


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ({"A": "one", "B": "two"}, "B"),
        ({"label": ["A", "B"], "text": ["one", "two"]}, "B"),
        ([{"label": "A", "text": "one"}, {"label": "B", "text": "two"}], "B"),
        (["one", "two"], "Two"),
    ],
)
def test_options_by_label_and_answers_by_label_or_text(tmp_path, options, answer):
    row = {"question": "Which?", "options": options, "answer": answer}
    fields = {"question": "question", "options": "options", "answer": "answer"}
    (item,) = read_items(task(tmp_path, [row], fields=fields))
    assert (item.options, item.gold, item.answers) == (("one", "two"), (1,), ("two",))


def test_free_answers_contexts_and_conclusions(tmp_path):
    row = {
        "q": "How many?", "doc": {"parts": ["One part.", "Another."]}, "label": ["12", "twelve"],
        "long": "There are twelve.",
    }  # fmt: skip
    fields = {"question": "q", "context": "doc.parts", "answer": "label", "conclusion": "long"}
    (item,) = read_items(task(tmp_path, [row], fields=fields))
    assert item.context == "One part.\n\nAnother."
    assert (item.answers, item.gold, item.conclusion) == (("12", "twelve"), (), "There are twelve.")


def test_options_written_inside_the_question_are_parsed_out(tmp_path):
    parse = {"before": "Choose:", "options": "Answer", "after": "Answer format:"}
    row = {
        "i": "Choose: What is Answer1: like?\n\nAnswer1: 3: four Answer2: two\n Answer3: x\n\n"
        "Answer format: answer1/answer2/answer3",
        "a": "answer2",
    }
    fields = {"question": "i", "answer": "a"}
    with pytest.raises(ValueError, match=r"made\.made: .*rows\.jsonl:1"):
        list(read_items(task(tmp_path, [row | {"i": row["i"].replace(" Answer3: x", "")}],
                             fields=fields, parse=parse)))  # fmt: skip
    row["i"] = row["i"].replace("What is Answer1: like?", "What is it like?")
    (item,) = read_items(task(tmp_path, [row], fields=fields, parse=parse))
    assert item.question == "What is it like?"
    assert item.options == ("3: four", "two", "x")
    assert (item.gold, item.answers) == ((1,), ("two",))


def test_several_questions_of_one_item(tmp_path):
    path = tmp_path / "pairs.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([[1, "Is it, so?", "Really\nso?", 1], [1, "Is it?", "What?", 0]])
    fields = {"question": ["1", "2"], "gold": "3"}
    first, second = read_items(
        task(tmp_path, str(path), fields=fields, options=["different", "similar"])
    )
    assert first.questions == ("Is it, so?", "Really\nso?")
    assert (first.question, first.answers) == ("Is it, so?\nReally\nso?", ("similar",))
    assert (second.id, second.answers) == ("2", ("different",))


def test_compressed_json_and_rows_chosen_by_their_values(tmp_path):
    rows = [{"question": f"Q{i}", "split": "test" if i % 2 else "train"} for i in range(6)]
    path = tmp_path / "rows.json.gz"
    path.write_bytes(gzip.compress(json.dumps(rows).encode()))
    items = list(read_items(task(tmp_path, str(path), where={"split": "test"})))
    assert [(item.id, item.question) for item in items] == [("1", "Q1"), ("2", "Q3"), ("3", "Q5")]


def test_the_first_source_that_can_be_had_is_taken(tmp_path, monkeypatch):
    monkeypatch.delenv("LECTERN_REALDATA", raising=False)
    assert read_task("mqp")[0].hub == "AdaptLLM/medicine-tasks"
    monkeypatch.setenv("LECTERN_REALDATA", str(tmp_path))
    assert read_task("mqp")[0].path == "${LECTERN_REALDATA}/mqp.csv"
    with pytest.raises(ValueError, match=r"task mqp\.original: .*mqp\.csv cannot be read"):
        next(read_items("mqp"))
    assert read_task("mqp", source="published")[0].hub


def test_a_path_takes_the_place_and_keeps_the_shape(tmp_path, monkeypatch):
    monkeypatch.delenv("LECTERN_REALDATA", raising=False)
    path = tmp_path / "mine.csv"
    path.write_text("1,One?,Two?,0\n")
    (item,) = read_items("mqp", path=str(path))
    assert item.answers == ("different",)
    path = tmp_path / "mine.jsonl"
    path.write_text('{"id": 1, "input": "Q", "options": ["a", "b"], "gold_index": 0}\n')
    (item,) = read_items("mqp", path=str(path), source="published")
    assert item.answers == ("a",)


def test_the_identity_of_a_task_s_data_changes_with_it(tmp_path):
    name = task(tmp_path, [{"question": "One?"}])
    before = benchmarks.identity(name)
    assert benchmarks.identity(name) == before
    task(tmp_path, [{"question": "One?"}, {"question": "Two?"}])
    assert benchmarks.identity(name) != before


def test_the_hub_is_read_with_the_task_s_names(monkeypatch):
    asked = []

    def opened(*names: Any) -> list[dict[str, Any]]:
        asked.append(names)
        return [{"id": i, "input": f"Q{i}", "label": f"{i}.5"} for i in range(98)]

    monkeypatch.setattr(formats, "open_dataset", opened)
    items = list(read_items("ner"))
    assert asked == [("AdaptLLM/finance-tasks", "NER", "test", None)]
    assert (len(items), items[3].answers) == (98, ("3.5",))


def test_abstracts_of_the_hub_are_told_from_their_conclusions(monkeypatch):
    row = {
        "pubid": 1, "question": "Is it?", "long_answer": "It is.", "final_decision": "maybe",
        "context": {"contexts": ["One.", "Two."], "labels": ["AIM", "RESULTS"], "meshes": []},
    }  # fmt: skip
    monkeypatch.setattr(formats, "open_dataset", lambda *_: [row] * 1000)
    item = next(read_items("pubmedqa", source="labelled"))
    assert item == Item(
        "1", "Is it?", ("yes", "no", "maybe"), ("maybe",), "One.\n\nTwo.", (2,), "It is."
    )


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("nothing", {}, "no task 'nothing': .*tasks: .*mqp"),
        ("mqp", {"source": "x"}, "task mqp: no source 'x'; there are: original, published"),
        ("gsm8k", {}, "task gsm8k: its data is not to be had .*LECTERN_REALDATA"),
        ("mqp", {"path": "no/where.csv"}, "task mqp.original: no/where.csv cannot be read"),
        ("mqp", {"path": "no/where.bin"}, "does not tell its format"),
    ],
)
def test_what_cannot_be_read_is_an_error(monkeypatch, name, kwargs, message):
    monkeypatch.delenv("LECTERN_REALDATA", raising=False)
    with pytest.raises(ValueError, match=message):
        list(read_items(name, **kwargs))


@pytest.mark.parametrize(
    ("row", "source", "message"),
    [
        ({"q": "Q"}, {}, "no field 'question'; there are: q"),
        ({"question": " "}, {}, "the question is empty"),
        ({"question": "Q", "o": ["a"], "g": 3}, {"g": "gold"}, "gold 3 is none of the 1 options"),
        ({"question": "Q", "o": ["a"], "g": "x"}, {"g": "gold"}, "gold 'x' is no index"),
        ({"question": "Q", "o": ["a"], "g": "x"}, {"g": "answer"}, "'x' is none of the options"),
        ({"question": "Q", "o": {"x": {}}, "g": {}}, {"g": "context"}, "is not text"),
    ],
)
def test_a_row_that_does_not_fit_is_an_error_with_its_place(tmp_path, row, source, message):
    fields = {"question": "question"}
    if source:
        fields |= {"options": "o", source["g"]: "g"}
    with pytest.raises(ValueError, match=rf"rows\.jsonl:1: .*{message}|{message}"):
        list(read_items(task(tmp_path, [row], fields=fields)))


def test_missing_and_broken_rows_are_errors(tmp_path):
    rows = [{"question": "Q"}] * 3
    with pytest.raises(ValueError, match="has 3 items, 4 expected"):
        list(read_items(task(tmp_path, rows, rows=4)))
    with pytest.raises(ValueError, match="0 items"):
        list(read_items(task(tmp_path, [])))
    name = task(tmp_path, rows)
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write("{broken\n")
    with pytest.raises(ValueError, match=r"rows\.jsonl:4: broken JSON"):
        list(read_items(name))


def test_a_task_file_that_is_wrong_names_the_key(tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text("data: {sources: {a: {path: x.csv, fields: {questoin: q}}}}")
    with pytest.raises(ValueError, match=r"bad\.yaml: data\.sources\.a\.fields"):
        read_task(str(file))
    file.write_text("metric: accuracy")
    with pytest.raises(ValueError, match="needs `data`"):
        read_task(str(file))


def test_the_tasks_on_disk_are_whole(realdata, monkeypatch):
    monkeypatch.setenv("LECTERN_REALDATA", str(realdata))
    for name in sorted(GENERAL | {"mqp", "pubmedqa"}):
        items = list(read_items(name))
        assert all(item.answers for item in items), name
        if name != "gsm8k":
            assert all(len(item.options) >= 2 and len(item.gold) == 1 for item in items), name
        assert not any("nswer format" in item.question for item in items), name
    challenge = next(read_items("arc_challenge"))
    assert challenge.options[2] == "Planetary days will become shorter."
    assert challenge.answers == (challenge.options[2],)
