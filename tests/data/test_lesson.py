"""A converted document is put back together: text read, tasks, the places they are made of."""

import json

import pytest

from data import rows
from data.document import Document, Turn
from data.inspect import export
from data.lesson import lesson, pairs
from data.page import to_html
from data.terminal import print_views
from data.view import StreamView, view_documents

TITLE = "Why jam <sets>"
BODY = "Pectin gels in acid. Therefore, lemon juice helps. Jam is defined as fruit and sugar."
READ = f"{TITLE}\n{BODY}"
PREMISE, HYPOTHESIS = (15, 35), (47, 65)


def converted(*, title_shown: bool = False, halves: bool = False) -> Document:
    """What composing gives: a prefix, the text read (in two halves), tasks."""
    at = 0 if title_shown else len(TITLE) + 1
    text, read, tasks = "Read this.\n", [], []

    def add(piece: str) -> list[int]:
        nonlocal text
        start = len(text)
        text += piece
        return [0, start, len(text)]

    def ask(family: str, label: str, question: str, answer: str, spans: list) -> list[int]:
        places = [add(question), add(answer)]
        add("\n\n")
        tasks.append(
            {
                "family": family,
                "label": label,
                "question": question,
                "answer": answer,
                "source_spans": spans,
                "filter": None,
                "places": places,
            }
        )
        return places[1]

    cut = READ.index("Jam is") if halves else len(READ)
    read.append([*add(READ[at:cut]), at])
    add("\n\n")
    if halves:
        half = READ[cut:]
        place = ask("completion", "completion", "How does it go on?\n", half, [[cut, len(READ)]])
        read.append([*place, cut])
    spans = [list(PREMISE), list(HYPOTHESIS)]
    question = 'Does "Pectin gels in acid." mean "lemon juice helps."? '
    ask("nli", "entail", question, "Yes", spans)
    if not title_shown:
        ask("title", "title", "What is a title? ", TITLE, [])
    meta = {"parent": "p" * 24, "title": TITLE, "source_id": "mine-1", "tasks": tasks, "read": read}
    return Document("p" * 24, (Turn("text", text),), "a.jsonl:1", meta)


SHAPES = [{}, {"title_shown": True}, {"halves": True}, {"halves": True, "title_shown": True}]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_text_read_is_put_back_whole(shape):
    found = lesson(converted(**shape))
    assert found is not None
    assert found.text == READ
    assert "".join(run.text for run in found.runs) == READ
    nli = next(i for i, task in enumerate(found.tasks) if task.family == "nli")
    marked = [run.text for run in found.runs if nli in run.tasks]
    assert marked == ["Pectin gels in acid.", "lemon juice helps."]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_finished_text_is_cut_into_what_is_read_asked_and_answered(shape):
    document = converted(**shape)
    found = lesson(document)
    ((role, pieces),) = found.turns
    assert role == "text"
    assert "".join(piece.text for piece in pieces) == document.turns[0].text
    for number, task in enumerate(found.tasks):
        said = {p.kind: p.text for p in pieces if p.task == number}
        assert said == {"question": task.question, "answer": task.answer}
    read = "".join(piece.text for piece in pieces if piece.kind == "read")
    first = 0 if shape.get("title_shown") else len(TITLE) + 1
    last = READ.index("Jam is") if shape.get("halves") else len(READ)
    assert read == READ[first:last]
    assert pieces[0].text == "Read this.\n"
    assert pieces[0].kind == "frame"


def test_spans_that_overlap_share_their_run():
    document = converted()
    extra = dict(document.meta["tasks"][0], family="keyword", label="keyword")
    extra |= {"source_spans": [[15, 60]], "places": []}
    document.meta["tasks"].append(extra)
    runs = [(run.text, run.tasks) for run in lesson(document).runs]
    assert ("Pectin gels in acid.", (0, 2)) in runs
    assert (" Therefore, ", (2,)) in runs
    assert ("lemon juice h", (0, 2)) in runs
    assert ("elps.", (0,)) in runs


def test_what_asks_for_the_whole_text_is_not_underlined():
    runs = lesson(converted(halves=True)).runs
    assert {number for run in runs for number in run.tasks} == {1}


def test_a_raw_document_is_no_lesson():
    assert lesson(Document("a", (Turn("text", "plain"),), "s")) is None
    assert list(pairs([Document("a", (Turn("text", "plain"),), "s", {"tasks": []})])) == []


def test_a_conversation_has_its_tasks_in_turns():
    turns = (Turn("user", f"Read: {READ}\nTitle?"), Turn("assistant", TITLE))
    task = {"family": "title", "label": "title", "question": "Title?", "answer": TITLE}
    task |= {"source_spans": [], "filter": "too long", "places": [[0, 7 + len(READ), 13 + len(READ)], [1, 0, len(TITLE)]]}  # fmt: skip
    meta = {"tasks": [task], "read": [[0, 6, 6 + len(READ), 0]]}
    found = lesson(Document("a", turns, "s", meta))
    assert found.text == READ
    assert [[(p.kind, p.task) for p in pieces] for _, pieces in found.turns] == [
        [("frame", None), ("read", None), ("frame", None), ("question", 0)],
        [("answer", 0)],
    ]
    assert found.tasks[0].filter == "too long"


def test_pairs_have_question_answer_places_and_source():
    document = converted()
    first, second = pairs([document])
    assert first == {
        "document": "p" * 24,
        "parent": "p" * 24,
        "source_id": "mine-1",
        "number": 0,
        "family": "nli",
        "label": "entail",
        "question": 'Does "Pectin gels in acid." mean "lemon juice helps."? ',
        "answer": "Yes",
        "spans": [list(PREMISE), list(HYPOTHESIS)],
        "quotes": ["Pectin gels in acid.", "lemon juice helps."],
        "filter": None,
        "text": READ,
    }
    assert (second["family"], second["answer"], second["quotes"]) == ("title", TITLE, [])


def test_a_text_of_several_documents_names_the_one_a_task_is_about():
    tasks = []
    for parent, answer, spans in (("a", "ne", [[1, 3]]), ("b", "wo", [[7, 9]])):
        tasks.append({"family": "synthesis", "label": "free", "question": "Q?", "answer": answer, "source_spans": spans, "parent": parent})  # fmt: skip
    read = [[0, 0, 4, 0], [0, 8, 12, 6]]
    meta = {"parent": "a", "parents": ["a", "b"], "read": read, "tasks": tasks}
    document = Document("ab", (Turn("text", "One. Q? Two. Q?"),), "s", meta)
    first, second = pairs([document])
    assert (first["parent"], first["quotes"]) == ("a", ["ne"])
    assert (second["parent"], second["quotes"]) == ("b", ["wo"])
    assert first["text"] == "One.\n\nTwo."


def view(*documents: Document) -> StreamView:
    return StreamView("articles", (("folder", "x"),), documents, ())


def test_the_page_shows_both_sides_in_the_colours_of_the_families():
    page = to_html([view(converted(), Document("raw", (Turn("text", "<i>plain</i>"),), "b:2"))])
    assert 'class="lesson"' in page
    assert page.count('class="task f-') == 2
    assert '<span class="mined t0"' in page
    assert 'title="1 nli: entail">Pectin gels in acid.</span>' in page
    assert 'data-task="t0"' in page
    assert '<span class="p-answer f-nli">Yes</span>' in page
    assert "Why jam &lt;sets&gt;" in page
    assert "&lt;i&gt;plain&lt;/i&gt;" in page
    assert "<sets>" not in page
    assert "<i>plain" not in page
    assert "http" not in page
    assert "src=" not in page


@pytest.mark.parametrize("columns", ["80", "160"])
def test_the_terminal_shows_text_and_tasks(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    print_views([view(converted())])
    shown = capsys.readouterr().out
    assert "Pectin gels in acid.[1]" in shown
    assert "2 tasks" in shown
    assert "1. nli: entail" in shown
    assert "→ Yes" in shown
    side_by_side = any("what is read" in line and "2 tasks" in line for line in shown.split("\n"))
    assert side_by_side == (columns == "160")


def prepared(folder, documents):
    (folder / "articles" / "documents").mkdir(parents=True)
    (folder / "articles" / "stream.json").write_text("{}")
    for i, document in enumerate(documents):
        path = folder / "articles" / "documents" / f"part-{i:05d}.jsonl.zst"
        rows.write_lines(path, [document.to_json()])
    return folder


def test_pairs_are_exported_and_documents_found_by_id(tmp_path):
    other = Document(
        "q" * 24 + "#1",
        (Turn("text", "x"),),
        "b:1",
        {"parent": "q" * 24, "parents": ["q" * 24, "r" * 24]},
    )
    out = prepared(tmp_path / "out", [converted(halves=True), other])
    assert export(str(out), str(tmp_path / "pairs.jsonl")) == 3
    lines = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert [line["family"] for line in lines] == ["completion", "nli", "title"]
    assert {line["stream"] for line in lines} == {"articles"}
    assert export(str(out), str(tmp_path / "one.jsonl"), "mine-1") == 3
    for wanted in ("q" * 24, "q" * 24 + "#1", "r" * 24):
        ((document,),) = [v.documents for v in view_documents(str(out), wanted)]
        assert document == other
    with pytest.raises(ValueError, match="no document 'q' in"):
        view_documents(str(out), "q")
    with pytest.raises(ValueError, match="has tasks"):
        export(str(out), str(tmp_path / "none.jsonl"), "q" * 24)
    assert not (tmp_path / "none.jsonl").exists()
