"""What inspect shows is what lies on disk."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from data import prepare, rows
from data.config import CorpusConfig, FieldsConfig, PrepareConfig, SentencePieceConfig
from data.document import Document
from data.lesson import lesson
from data.pack import Row
from data.sources import read
from data.tokenizer import load_tokenizer, train_sentencepiece
from data.view import read_documents, view_row, view_streams

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [
    f"Study {i} shows that naïve cells <b>bind</b> the drug, and {i % 7} do not." for i in range(80)
]


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inspect")
    train_sentencepiece(TEXTS, str(folder / "spm"), SentencePieceConfig(vocab_size=330))
    with open(folder / "a.jsonl", "w") as file:
        for i, text in enumerate(TEXTS):
            file.write(json.dumps({"q": f"Question {i}?", "text": text, "page": i}) + "\n")
    settings = {
        "out_dir": str(folder / "out"),
        "tokenizer": str(folder / "spm"),
        "seq_len": 64,
        "workers": 1,
        "heldout": {"fraction": 0.2},
        "corpora": {
            "texts": {"path": f"{folder}/a.jsonl", "fields": {"text": "text", "group": "page"}},
            "pairs": {
                "path": f"{folder}/a.jsonl",
                "fields": {"prompt": "q", "response": "text", "group": "page"},
                "convert": "conversation",
                "chat": {"train_on": "assistant"},
            },
        },
    }
    prepare.prepare(PrepareConfig.model_validate(settings))
    return folder / "out"


def test_spans_give_back_the_text_and_the_mask(out):
    views = view_streams(str(out), num_documents=5, num_rows=1000)
    assert [view.name for view in views] == ["pairs", "texts"]
    texts = set()
    for view in views:
        stored = list(rows.read_rows(out / view.name))
        assert [row.index for row in view.rows] == list(range(len(stored)))
        assert len(view.documents) == 5
        for row, on_disk in zip(view.rows, stored, strict=True):
            assert row.num_tokens == (on_disk.segment_ids > 0).sum()
            assert sum(s.num_supervised for s in row.segments) == on_disk.loss_mask.sum()
            for segment in row.segments:
                plain = "".join(span.text for span in segment.spans if span.kind != "special")
                texts.add(plain.strip())
    whole = [
        text for text in TEXTS if text in texts
    ]  # documents that are longer than a row are in pieces
    assert len(whole) > 20


def test_a_question_is_context_and_an_answer_is_supervised(out):
    (view,) = view_streams(str(out / "pairs"), num_rows=1000)
    spans = [s for row in view.rows for segment in row.segments for s in segment.spans]
    context = "".join(s.text for s in spans if s.kind == "context")
    supervised = "".join(s.text for s in spans if s.kind == "supervised")
    assert "Question" in context
    assert "Question" not in supervised
    assert "naïve" in supervised
    assert {s.text for s in spans if s.kind == "special"} <= {"<s>", "</s>"}


def test_text_survives_characters_cut_into_bytes(out):
    tokenizer = load_tokenizer(str(out / "tokenizer"))
    ids = tokenizer.encode("a 漢字 b")
    for cut in range(1, len(ids)):
        mask = np.arange(len(ids)) >= cut
        row = Row(ids, np.ones(len(ids), np.int32), mask)
        (segment,) = view_row(0, row, tokenizer).segments
        assert sum(len(span.text) for span in segment.spans) >= len("a 漢字 b")
        assert "".join(span.text for span in segment.spans).endswith(" b")


def test_facts_state_bos_eos_fill_and_held_out(out):
    view = view_streams(str(out))[1]
    facts = dict(view.facts)
    assert facts["BOS"].startswith("every document begins with <s> (id 1)")
    assert facts["EOS"].startswith("every document ends with </s> (id 2)")
    assert re.match(r"\d+\.\d\d %", facts["fill"])
    assert "documents" in facts["held out"]


def test_the_page_is_self_contained_and_escaped(out, tmp_path):
    page = tmp_path / "page.html"
    command = [
        sys.executable,
        "-m",
        "data.inspect",
        str(out),
        "--rows",
        "3",
        "--documents",
        "4",
        "--html",
        str(page),
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    text = page.read_text()
    assert "&lt;b&gt;bind&lt;/b&gt;" in text
    assert "<b>bind" not in text
    assert "http" not in text
    assert "src=" not in text
    assert text.count('class="bar"') == 6
    assert 'class="supervised"' in text
    assert 'class="context"' in text


def test_the_terminal_shows_documents_rows_and_segments(out):
    command = [sys.executable, "-m", "data.inspect", str(out / "texts/heldout"), "--rows", "1"]
    shown = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert "texts/heldout" in shown
    assert "segment 1, tokens 0-" in shown
    assert "document " in shown
    assert "fill" in shown


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda out: out.rename(out.with_name("gone")), "does not exist"),
        (lambda out: (out / "texts/stream.json").unlink(), "no finished stream"),
        (lambda out: (out / "tokenizer").rename(out / "elsewhere"), "no folder `tokenizer`"),
    ],
)
def test_what_is_not_there_is_one_clear_message(out, tmp_path, change, says):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    shutil.rmtree(copy / "pairs")
    change(copy)
    command = [sys.executable, "-m", "data.inspect", str(copy)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    assert says in result.stderr
    assert "Traceback" not in result.stderr


def test_another_tokenizer_is_refused(out, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    shutil.rmtree(copy / "tokenizer")
    train_sentencepiece(TEXTS, str(copy / "tokenizer"), SentencePieceConfig(vocab_size=310))
    with pytest.raises(ValueError, match="not the tokenizer"):
        view_streams(str(copy / "texts"))


# Reading comprehension


@pytest.fixture(scope="module")
def lessons(tmp_path_factory) -> Path:
    """The samples of law and biomedicine as reading comprehension, long documents in parts."""
    folder = tmp_path_factory.mktemp("lessons")
    common = {"language": "en", "domain_vocab": None}
    settings = {
        "out_dir": str(folder / "out"),
        "train_tokenizer": {"vocab_size": 1000},
        "seq_len": 384,
        "workers": 1,
        "heldout": {"fraction": 0},
        "corpora": {
            "law": {
                "path": str(ROOT / "data/sample/law.jsonl"),
                "fields": {"text": "opinions.sections", "title": "case_name", "id": "id"},
                "convert": "comprehension",
                "comprehension": common | {"domain": "law"},
            },
            "talks": {
                "path": str(ROOT / "data/sample/biomedicine.jsonl"),
                "fields": {"text": "text", "title": "title", "id": "id"},
                "limit": 40,
                "convert": "comprehension",
                "comprehension": common | {"form": "chat"},
                "chat": {"template": "llama2"},
            },
        },
    }
    prepare.prepare(PrepareConfig.model_validate(settings))
    return folder / "out"


def converted(out: Path, name: str) -> list[Document]:
    return list(read_documents(epath.Path(out / name)))


@pytest.mark.parametrize("name", ["law", "talks"])
def test_the_text_read_is_that_of_the_parent(lessons, name):
    fields = {"law": ("opinions.sections", "case_name"), "talks": ("text", "title")}[name]
    file = {"law": "law.jsonl", "talks": "biomedicine.jsonl"}[name]
    corpus = CorpusConfig(
        path=str(ROOT / "data/sample" / file),
        fields=FieldsConfig(text=fields[0], title=fields[1], id="id"),
    )
    parents = {d.id: d.turns[0].text for d in read(corpus, name, set_aside=pytest.fail)}
    documents = converted(lessons, name)
    assert len(documents) > len({d.meta["parent"] for d in documents})
    seen = 0
    for document in documents:
        found = lesson(document)
        if found is None:
            continue
        seen += 1
        start, stop = document.meta["span"]
        piece = parents[document.meta["parent"]][start:stop]
        # White space at the ends is not kept by conversations.
        assert "".join(found.text.split()) == "".join(piece.split())
        for task in found.tasks:
            asked = "".join(re.findall(r"\w", f"{task.question} {task.answer}".lower()))
            for low, high in task.spans:
                quote = "".join(re.findall(r"\w", piece[low:high].lower()))
                if task.family in ("nli", "cause", "paraphrase", "definition", "completion"):
                    assert quote in asked, (task, piece[low:high])
        for number, task in enumerate(found.tasks):
            pieces = [p for _, turn in found.turns for p in turn if p.task == number]
            assert "".join(p.text for p in pieces if p.kind == "answer") == task.answer
    assert seen > 0.9 * len(documents)


def test_a_lesson_on_the_page_and_on_the_terminal(lessons, tmp_path):
    page = tmp_path / "page.html"
    command = [sys.executable, "-m", "data.inspect", str(lessons), "--html", str(page)]
    subprocess.run([*command, "--id", "law-001"], cwd=ROOT, check=True, capture_output=True)
    text = page.read_text()
    parts = [d for d in converted(lessons, "law") if d.meta["source_id"] == "law-001"]
    assert len(parts) > 1
    assert text.count('class="lesson"') == len(parts)
    assert text.count('data-task="t') == sum(len(d.meta["tasks"]) for d in parts)
    assert 'class="mined ' in text
    assert "http" not in text
    shown = subprocess.run(
        [*command[:-2], "--id", parts[1].id], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    assert f"document {parts[1].id}" in shown
    assert f"document {parts[0].id} " not in shown
    assert f"{len(parts[1].meta['tasks'])} tasks" in shown


def test_every_task_is_exported_as_a_pair(lessons, tmp_path):
    file = tmp_path / "pairs.jsonl"
    command = [sys.executable, "-m", "data.inspect", str(lessons), "--export", str(file)]
    shown = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    pairs = [json.loads(line) for line in file.read_text().splitlines()]
    documents = {d.id: d for name in ("law", "talks") for d in converted(lessons, name)}
    assert len(pairs) == sum(len(d.meta["tasks"]) for d in documents.values())
    assert f"{len(pairs):,} pairs" in shown
    card = json.loads((lessons / "law" / "card.json").read_text())
    families = Counter(pair["family"] for pair in pairs if pair["stream"] == "law")
    assert dict(families) == card["tasks"]
    for pair in pairs:
        task = documents[pair["document"]].meta["tasks"][pair["number"]]
        assert (pair["question"], pair["answer"]) == (task["question"], task["answer"])
        assert pair["spans"] == task["source_spans"]
        assert pair["quotes"] == [pair["text"][a:b] for a, b in pair["spans"]]


def test_what_cannot_be_shown_is_one_clear_message(lessons, out, tmp_path):
    for folder, flags, says in (
        (lessons, ["--id", "law-999"], "no document 'law-999'"),
        (out, ["--export", str(tmp_path / "x.jsonl")], "has tasks"),
    ):
        command = [sys.executable, "-m", "data.inspect", str(folder), *flags]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 1
        assert says in result.stderr
        assert "Traceback" not in result.stderr


def test_a_card_is_a_page_too(lessons):
    page = (lessons / "law" / "card.html").read_text()
    assert "Tasks by family" in page
    assert "Bytes in a document" in page
