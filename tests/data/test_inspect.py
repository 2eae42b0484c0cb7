"""What inspect shows is what lies on disk."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data import prepare, rows
from data.config import PrepareConfig, SentencePieceConfig
from data.pack import Row
from data.tokenizer import load_tokenizer, train_sentencepiece
from data.view import view_row, view_streams

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
