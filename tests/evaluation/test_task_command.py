"""`python -m evaluation.run MODEL --tasks`: what is missing is said, what is finished is kept."""

import json

import pytest
import yaml

from evaluation import run as evaluation_run
from evaluation.task import FIXTURES
from tests.model.tiny_models import make_folder, make_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small random Hugging Face model with its tokenizer."""
    pytest.importorskip("torch")
    root = tmp_path_factory.mktemp("model")
    make_folder(root, "random_wide", make_tokenizer(root))
    return root


def score(folder, out, *words):
    return evaluation_run.main([str(folder), "--out", str(out), "--limit=4", *words])


def test_tasks_are_kept_and_what_is_missing_is_said(folder, tmp_path, capsys, monkeypatch):
    for name in ("LECTERN_LAW_KNOWLEDGE", "LECTERN_REALDATA"):
        monkeypatch.delenv(name, raising=False)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"question": "Is it so?", "answer": "yes"}) + "\n")
    source = {"path": str(rows), "fields": {"question": "query"}, "options": ["yes", "no"]}
    odd = {"data": {"sources": {"mine": source}}, "prompts": ["{question}"], "metric": "accuracy"}
    (tmp_path / "columns.yaml").write_text(yaml.safe_dump(odd))
    empty = odd | {"data": {"sources": {"mine": source | {"path": str(tmp_path / "none.jsonl")}}}}
    (tmp_path / "none.jsonl").write_text("")
    (tmp_path / "empty.yaml").write_text(yaml.safe_dump(empty))
    good = source | {"fields": {"question": "question", "answer": "answer"}}
    (tmp_path / "good.yaml").write_text(yaml.safe_dump(odd | {"data": {"sources": {"mine": good}}}))
    out = tmp_path / "out"
    names = ["law_knowledge", *(str(tmp_path / f"{n}.yaml") for n in ("columns", "empty", "good"))]
    assert score(folder, out, f"--tasks={','.join(names)}") == 1
    said = capsys.readouterr()
    assert "law_knowledge: task law_knowledge: its data is not to be had" in said.err
    assert "set LECTERN_LAW_KNOWLEDGE" in said.err
    assert "no field 'query'; there are: question, answer" in said.err
    assert "none.jsonl has 0 items, some expected" in said.err
    assert "not measured: law_knowledge, columns, empty" in said.err
    assert sorted(path.name for path in out.iterdir()) == ["good.json"]
    result = json.loads((out / "good.json").read_text())
    assert result["model"] == str(folder)
    assert (result["items"], result["add_bos"], result["source"]) == (1, True, f"mine: {rows}")

    # Given again with what was missing: the finished one is kept as it is.
    before = (out / "good.json").stat().st_mtime_ns
    fixed = source | {"fields": {"question": "question", "answer": "answer"}}
    for name in ("columns", "empty"):
        (tmp_path / f"{name}.yaml").write_text(
            yaml.safe_dump(odd | {"data": {"sources": {"mine": fixed}}})
        )
    assert score(folder, out, f"--tasks={','.join(names[1:])}") == 0
    assert (out / "good.json").stat().st_mtime_ns == before
    assert (out / "columns.json").exists()
    # Other settings are refused, not mixed in.
    assert score(folder, out, f"--tasks={names[-1]}", "--seed=1") == 1
    assert "seed: 0 there, 1 asked for" in capsys.readouterr().err


def test_a_file_of_the_published_shape_stands_in_for_the_hub(folder, tmp_path, capsys):
    file = FIXTURES / "mqp.jsonl"
    assert score(folder, tmp_path, "--tasks=mqp", f"--data=mqp.published={file}") == 0
    result = json.loads((tmp_path / "mqp.json").read_text())
    assert result["source"] == f"published: {file}"
    assert "--data: 'mqa=" in fails(
        [str(folder), "--tasks=mqp", f"--out={tmp_path}", f"--data=mqa={file}"], capsys
    )


def test_a_fixture_is_called_one(folder, tmp_path, capsys):
    assert score(folder, tmp_path, "--tasks=med_knowledge", "--fixtures", "--chat=llama2") == 0
    assert "(fixture)" in capsys.readouterr().out
    result = json.loads((tmp_path / "med_knowledge.json").read_text())
    assert result["source"].startswith("fixture: 20 rows")
    assert result["template"] == "llama2"


@pytest.mark.slow
def test_written_answers_and_exams(folder, tmp_path):
    assert score(folder, tmp_path, "--tasks=exam,ner,convfinqa", "--fixtures", "--window=256") == 0
    exam = json.loads((tmp_path / "exam.json").read_text())
    assert exam["unparsed"] <= exam["items"] == 4
    ner = json.loads((tmp_path / "ner.json").read_text())
    assert ner["metric"] == "span_f1"
    assert all(isinstance(sample["text"], str) for sample in ner["samples"])


def fails(words, capsys):
    with pytest.raises(SystemExit) as error:
        evaluation_run.main(words)
    assert error.value.code == 1
    return capsys.readouterr().err


def test_wrong_words_are_said(folder, tmp_path, capsys):
    model = str(folder)
    assert "--out: missing" in fails([model, "--tasks=mqp"], capsys)
    out = f"--out={tmp_path}"
    assert "no task 'mpq'" in fails([model, "--tasks=mpq", out], capsys)
    assert "named twice" in fails([model, "--tasks=mqp,mqp", out], capsys)
    assert "--limit: '0' is not 1 or more" in fails(
        [model, "--tasks=mqp", out, "--limit=0"], capsys
    )
    assert "--task: unknown" in fails([model, "--tasks=mqp", "--task=mqp", out], capsys)
    assert "--add_bos: 'no'" in fails([model, "--tasks=mqp", out, "--add_bos=no"], capsys)


def test_a_model_without_a_tokenizer_is_said(folder, tmp_path, capsys):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((folder / name).read_bytes())
    said = fails([str(bare), "--tasks=mqp", f"--out={tmp_path}"], capsys)
    assert "tokenizer" in said
    assert str(bare) in said
