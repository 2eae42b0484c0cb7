"""Grades of pairs: by a server on this machine and by a person's sheet, and the figures of both."""

import csv
import json
import random

import pytest

from data.document import Document, Turn
from data.judge import Grade, Share, judge, kinds, read_sheet, report, sample, share, write_sheet
from tests.data.completion_server import CompletionServer, serving


def document(n: int) -> Document:
    text = f"Text {n} is about the heart."
    tasks = [
        {"family": "synthesis", "label": "free", "question": f"What is text {n} about?", "answer": "the heart"},
        {"family": "synthesis", "label": "reasoned options", "question": "Which?", "answer": "a",
         "options": ["a", "b"], "rationale": "Not b."},
    ]  # fmt: skip
    meta = {"tasks": tasks, "read": [[0, 0, len(text), 0]]}
    return Document(f"d{n}", (Turn("text", text + "\n\nQ: ..."),), "made", meta)


DOCUMENTS = [document(n) for n in range(50)]


def test_the_sample_does_not_depend_on_the_order():
    chosen = sample(DOCUMENTS, 30)
    mixed = DOCUMENTS.copy()
    random.Random(1).shuffle(mixed)
    assert sample(mixed, 30) == chosen
    assert len({item.pair for item in chosen}) == 30
    assert sample(DOCUMENTS, 10) == chosen[:10]
    assert len(sample(DOCUMENTS, 1000)) == 100


def test_a_pair_is_shown_with_all_that_belongs_to_it():
    item = next(item for item in sample(DOCUMENTS, 100) if item.label == "reasoned options")
    assert item.text == f"Text {item.pair[1:].split(':')[0]} is about the heart."
    assert item.question == "Which?\n- a\n- b"
    assert item.answer == "Not b.\na"


REPLIES = {
    0: "accurate: yes\nrelevant: yes\nkind: fact lookup",
    1: "Accurate: No.\nRelevant: yes\nKind: Fact  Lookup",
    2: "1. accurate: yes, it is\n2. relevant: no\n3. kind: counting.",
    3: "**Accurate:** yes\n**Relevant:** no\n**Kind:** inference",
    4: "I cannot say.",
}


def test_a_server_judges(tmp_path):
    def behave(number, body):
        assert body["model"] == "critic"
        assert [message["role"] for message in body["messages"]] == ["system", "user"]
        shown = body["messages"][1]["content"]
        assert "is about the heart." in shown
        assert "{" not in shown
        assert "entailment" in shown  # a kind
        reply = REPLIES[number % 5]
        choice = {"message": {"content": reply}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 100, "completion_tokens": 10}
        return 200, {}, json.dumps({"choices": [choice], "usage": usage})

    with serving(CompletionServer(behave)) as server:
        how = tmp_path / "critic.yaml"
        how.write_text(f"base_url: {server.url}\nmodel: critic\nprice_in: 10\nconcurrency: 1\n")
        told = judge(DOCUMENTS, str(how), 50)
        assert len(server.requests) == 50
        assert judge(DOCUMENTS, str(how), 50).splitlines()[0] == told.splitlines()[0]
        assert len(server.requests) == 50  # from the journal
    lines = told.splitlines()
    assert lines[0] == "50 pairs"
    assert lines[1].startswith("accurate   75.0 %  (30 of 40; 95 %: 59.8 to 85.8)")
    assert lines[2].startswith("relevant   50.0 %  (20 of 40;")
    assert lines[3] == "kinds     3: fact lookup 20, counting 10, inference 10"
    assert "not or not wholly graded: 10" in told
    assert "77.5 %" in told
    assert "critic: 50 requests" in told
    assert "$0.05" in told
    assert len(read_sheet(str(tmp_path / "critic.grades.csv"))) == 50


def test_a_person_judges(tmp_path):
    sheet = str(tmp_path / "sheet.csv")
    assert "40 pairs to grade" in judge(DOCUMENTS, sheet, 40)
    with pytest.raises(ValueError, match="no grades yet"):
        judge(DOCUMENTS, sheet, 40)
    with open(sheet, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40
    for n, row in enumerate(rows):
        row.update(accurate="Yes" if n % 4 else "no", relevant="y", kind="Counting")
    with open(sheet, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    told = judge([], sheet, 40)
    assert "accurate   75.0 %  (30 of 40;" in told
    assert "relevant  100.0 %  (40 of 40;" in told
    assert "kinds     1: counting 40" in told


def test_a_sheet_with_other_words_is_refused(tmp_path):
    sheet = str(tmp_path / "sheet.csv")
    write_sheet(sheet, [Grade("a", "f", "l", "t", "q", "a", "perhaps")])
    with pytest.raises(ValueError, match="row 2: accurate is 'perhaps'"):
        read_sheet(sheet)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no columns"):
        judge([], str(tmp_path / "other.csv"), 1)


def test_sheets_keep_what_they_are_given(tmp_path):
    grades = [
        Grade("a", "f", "l", 'line\nbreak, "quote"', "=1+1?", "日本", "yes", "no", "counting")
    ]
    write_sheet(str(tmp_path / "s.csv"), grades)
    assert read_sheet(str(tmp_path / "s.csv")) == grades


def test_intervals_are_wilsons():
    """Against the closed form's published values."""
    assert Share(8, 10).interval == pytest.approx((0.4902, 0.9433), abs=1e-3)
    assert Share(0, 10).interval == pytest.approx((0.0, 0.2775), abs=1e-3)
    assert Share(10, 10).interval[1] == pytest.approx(1)
    assert Share(0, 0).interval == (0, 1)


def test_figures_come_shape_by_shape():
    grades = [
        Grade("a", "synthesis", "free", "", "", "", "yes", "yes", "Counting"),
        Grade("b", "synthesis", "options", "", "", "", "no", "", "counting "),
    ]
    assert kinds(grades) == {"counting": 2}
    assert share(grades, "relevant") == Share(1, 1)
    told = report(grades)
    assert "synthesis, options:\n  accurate    0.0 %" in told
    assert "not or not wholly graded: 1" in told


def test_what_cannot_be_judged_is_said(tmp_path):
    with pytest.raises(ValueError, match="no document has pairs"):
        judge([], str(tmp_path / "x.csv"), 5)
    with pytest.raises(ValueError, match="neither"):
        judge(DOCUMENTS, "judge.txt", 5)
    with pytest.raises(ValueError, match="cannot be read"):
        judge(DOCUMENTS, str(tmp_path / "none.yaml"), 5)


def test_inspect_writes_a_sheet_of_a_prepared_stream(tmp_path, capsys):
    from data import rows as rows_lib
    from data.inspect import main

    stream = tmp_path / "out" / "reports"
    rows_lib.write_lines(
        stream / "documents" / "part-00000.jsonl.zst", [d.to_json() for d in DOCUMENTS]
    )
    rows_lib.write_json(stream / "stream.json", {"name": "reports"})
    sheet = tmp_path / "sheet.csv"
    main([str(tmp_path / "out"), "--judge", str(sheet), "--pairs", "12"])
    assert "12 pairs to grade" in capsys.readouterr().out
    assert read_sheet(str(sheet)) == sample(DOCUMENTS, 12)
