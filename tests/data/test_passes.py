"""The preparation with everything on: the same bytes however it is run, and no document unaccounted for."""

import gzip
import io
import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import zstandard

from data.beam import BeamExecutor, split_flags
from data.config import PrepareConfig
from data.conversion import Writer
from data.document import Document
from data.generator import Completion
from data.prepare import prepare
from data.rows import read_rows
from tests.data.corpora import QUESTION, recipe, write_corpora
from tests.data.test_prepare import digests

ROOT = Path(__file__).resolve().parents[2]
STREAMS = ("reading", "plain", "questions")
IN_THIS_PROCESS = ("--direct_running_mode=in_memory", "--direct_num_workers=1")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> str:
    from data.config import SentencePieceConfig
    from data.tokenizer import train_sentencepiece
    from tests.data.corpora import article

    folder = tmp_path_factory.mktemp("tokenizer")
    texts = [article(i)["text"] for i in range(200)]
    train_sentencepiece(texts, str(folder), SentencePieceConfig(vocab_size=400))
    return str(folder)


def decontaminated(folder: Path) -> dict:
    """The `clean` of a recipe that looks for one question of a test."""
    items = folder / "items.jsonl"
    row = {"pmid": "q1", "question": f"{QUESTION}?", "contexts": ["None."], "long_answer": "They do not.",
           "final_decision": "no", "split": "test"}  # fmt: skip
    items.write_text(json.dumps(row) + "\n")
    return {"decontaminate": [{"task": "pubmedqa", "path": str(items)}]}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, tokenizer) -> tuple[Path, Path, dict]:
    """Inputs in one file each, what came of them, and the recipe."""
    inputs, out = tmp_path_factory.mktemp("in"), tmp_path_factory.mktemp("out") / "o"
    write_corpora(inputs)
    settings = recipe(out, inputs, tokenizer, clean=decontaminated(inputs))
    prepare(PrepareConfig.model_validate(settings))
    return inputs, out, settings


def moved(settings: dict, out: Path, inputs: Path, **changes: object) -> dict:
    """The recipe for another place."""
    old = Path(settings["corpora"]["plain"]["path"]).parents[1]
    corpora = json.loads(json.dumps(settings["corpora"]).replace(str(old), str(inputs)))
    return settings | {"out_dir": str(out), "corpora": corpora} | changes


def card(out: Path, name: str) -> dict:
    return json.loads((out / name / "card.json").read_text())


def documents(out: Path, name: str) -> list[Document]:
    found = []
    for part in sorted((out / name / "documents").iterdir()):
        with zstandard.open(part, "rb") as file:
            found += [Document.from_json(line) for line in io.TextIOWrapper(file, "utf-8")]
    return found


def test_every_stage_has_something_to_do(prepared):
    """Else the tests below would say nothing."""
    _, out, _ = prepared
    reading, plain = card(out, "reading"), card(out, "plain")
    assert sum(reading["removed"]["dedup"].values()) >= 20
    assert sum(plain["removed"]["dedup"].values()) >= 10
    assert sum(reading["removed"]["decontaminate"].values()) == 1
    assert reading["contamination"]
    assert sum(reading["tasks"].values()) > 100
    assert reading["vocabularies"]
    assert all(card(out, name)["heldout"]["documents"] for name in STREAMS)


@pytest.mark.parametrize(("num_files", "workers", "hash_seed"), [(3, 2, "1"), (8, 1, "77")])
def test_bytes_do_not_depend_on_files_order_workers_or_hash_seed(
    num_files, workers, hash_seed, prepared, tmp_path
):
    _, out, settings = prepared
    write_corpora(tmp_path / "in", num_files=num_files, order=num_files)
    ours = moved(settings, tmp_path / "o", tmp_path / "in", workers=workers)
    (tmp_path / "recipe.yaml").write_text(json.dumps(ours))
    done = subprocess.run(
        [sys.executable, "-m", "data.prepare", str(tmp_path / "recipe.yaml")],
        cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": hash_seed}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "o") == digests(out)


def test_beam_gives_the_same_bytes(prepared, tmp_path):
    _, out, settings = prepared
    write_corpora(tmp_path / "in", num_files=3, order=2)
    ours = moved(settings, tmp_path / "o", tmp_path / "in")
    executor = BeamExecutor(("--runner=DirectRunner", *IN_THIS_PROCESS))
    prepare(PrepareConfig.model_validate(ours), executor=executor)
    assert digests(tmp_path / "o") == digests(out)
    assert not (tmp_path / "o/.work").exists()


def test_another_number_of_partitions_gives_the_same_documents(prepared, tmp_path):
    inputs, out, settings = prepared
    prepare(PrepareConfig.model_validate(moved(settings, tmp_path / "o", inputs, partitions=3)))
    for name in STREAMS:
        ours, theirs = (
            Counter(d.to_json() for d in documents(o, name)) for o in (out, tmp_path / "o")
        )
        assert ours == theirs
        same = ("removed", "tasks", "tokens_out", "documents_kept", "languages", "contamination")
        assert [card(out, name)[k] for k in same] == [card(tmp_path / "o", name)[k] for k in same]


MOMENTS = (
    "before:*/done.json",  # while the inputs are dealt
    "after:*/clean-00001.json",  # while documents are cleaned
    "before:*/spool/verdicts-*.json",  # decided, and not yet said so
    "before:*/part-00002.jsonl.zst",  # while a partition's documents are written
    "after:*array_record-00003-of-*",  # a shard is there, its record is not
    "before:*/stream.json",  # everything is there but the last word
)


def test_killed_six_times_gives_the_same_bytes(prepared, tmp_path):
    inputs, out, settings = prepared
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(moved(settings, tmp_path / "o", inputs)))
    for moment in MOMENTS:
        done = subprocess.run(
            [sys.executable, "tests/die_preparing.py", moment, str(path)], cwd=ROOT,
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == -9, f"{moment}: {done.stdout}{done.stderr}"
    assert not (tmp_path / "o/reading/stream.json").exists()
    prepare(PrepareConfig.model_validate(json.loads(path.read_text())))
    assert digests(tmp_path / "o") == digests(out)
    assert not (tmp_path / "o/.work").exists()


def test_a_recipe_that_changes_after_a_kill_finds_nothing_of_the_other(prepared, tmp_path):
    inputs, _, settings = prepared
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(moved(settings, tmp_path / "o", inputs)))
    killed = [sys.executable, "tests/die_preparing.py", "after:*/part-00000.json", str(path)]
    assert subprocess.run(killed, cwd=ROOT, capture_output=True).returncode == -9
    assert list(tmp_path.glob("o/.work/spool/verdicts-*.json"))
    clean = settings["clean"] | {"dedup": {"threshold": 1}}
    for out in ("o", "fresh"):
        ours = moved(settings, tmp_path / out, inputs, clean=clean)
        prepare(PrepareConfig.model_validate(ours))
    assert digests(tmp_path / "o") == digests(tmp_path / "fresh")
    assert card(tmp_path / "o", "reading")["removed"]["dedup"].keys() == {"duplicate"}


def test_every_document_is_kept_held_out_or_removed(prepared):
    inputs, out, _ = prepared
    for name in STREAMS:
        told = card(out, name)
        removed = sum(sum(reasons.values()) for reasons in told["removed"].values())
        lines = sum(
            len(file.read_text().splitlines())
            for file in (inputs / ("a" if name == "reading" else "b")).iterdir()
        )
        assert told["documents_in"] == lines
        assert lines == told["documents_kept"] + told["heldout"]["documents"] + removed
        with zstandard.open(out / name / "set_aside.jsonl.zst", "rb") as file:
            assert len(file.read().splitlines()) == removed
        assert told["documents_out"] == len(documents(out, name))
        assert sum(number for _, number in told["lengths"]) == told["documents_out"]
        assert sum(told["languages"].values()) == told["documents_kept"]


def test_held_out_documents_stay_as_they_were_read(prepared):
    inputs, out, _ = prepared
    rows = [json.loads(line) for line in (inputs / "a/00.jsonl").read_text().splitlines()]
    texts = {f"{row['title']}\n{row['text']}" for row in rows}
    with zstandard.open(out / "reading/heldout/documents.jsonl.zst", "rb") as file:
        held = [Document.from_json(line) for line in io.TextIOWrapper(file, "utf-8")]
    assert held
    assert all(document.turns[0].text in texts for document in held)
    assert all("language" not in document.meta for document in held)


def test_without_comparisons_no_further_pass_is_paid(tmp_path, tokenizer, monkeypatch):
    """Corpora with groups and no deduplication are cleaned where they are converted."""
    from data import cleaning

    write_corpora(tmp_path / "in", pages=20)
    monkeypatch.setattr(cleaning, "make_surveyor", None)
    settings = recipe(
        tmp_path / "o", tmp_path / "in", tokenizer, clean={"dedup": {"enabled": False}}
    )
    del settings["corpora"]["reading"]
    prepare(PrepareConfig.model_validate(settings))
    told = card(tmp_path / "o", "plain")
    assert told["languages"] == {"en": told["documents_kept"]}
    assert told["documents_kept"] + told["heldout"]["documents"] == told["documents_in"]


def test_converted_held_out_rows_lie_beside_the_raw_ones(tmp_path, tokenizer):
    from data import rows

    write_corpora(tmp_path / "in", pages=30)
    settings = recipe(tmp_path / "o", tmp_path / "in", tokenizer, count_tokens_in=True)
    settings["heldout"] = {"fraction": 0.3, "converted": True}
    prepare(PrepareConfig.model_validate(settings))
    raw = rows.read_stream(tmp_path / "o/reading/heldout")
    converted = rows.read_stream(tmp_path / "o/reading/heldout_converted")
    assert raw is not None
    assert converted is not None
    assert converted["tokens"] > raw["tokens"]
    told = card(tmp_path / "o", "reading")
    assert told["heldout"]["converted"]["tokens_out"] == converted["tokens"]
    assert 0 < told["tokens_in"] < told["tokens_out"]
    assert told["fertility"]["documents"] == told["documents_kept"]


def test_a_generator_writes_pairs_and_its_partitions_are_kept(tmp_path, tokenizer):
    """A whole partition at a time, in this process; a run that is stopped does not ask again."""
    asked = []

    def generate(prompts):
        for prompt in prompts:
            if len(asked) == 12:
                asked.append("stop")
                raise KeyboardInterrupt
            asked.append(prompt.id)
            text = "<QUE> What does study 5 ask? <ANS> the risk of heart failure in older adults </END>"
            yield Completion(prompt.id, text, "stop", 5, 5)

    write_corpora(tmp_path / "in", pages=30)
    settings = recipe(tmp_path / "o", tmp_path / "in", tokenizer, seq_len=1024)
    path = settings["corpora"]["reading"]["path"]
    settings["corpora"] = {"pairs": {"path": path, "convert": "synthesis"}}
    settings["generator"] = {"kind": "openai", "model": "any"}
    config = PrepareConfig.model_validate(settings)
    with pytest.raises(KeyboardInterrupt):
        prepare(config, open_writer=lambda config: Writer(generate, "any"))
    prepare(config, open_writer=lambda config: Writer(generate, "any"))
    told = card(tmp_path / "o", "pairs")
    assert len(asked) - 1 == told["synthesis"]["texts"] >= told["documents_kept"]
    assert told["tasks"]["synthesis"] > 0
    with pytest.raises(ValueError, match="needs a generator"):
        prepare(config.model_copy(update={"out_dir": str(tmp_path / "p")}))


def test_profile_and_limit(tmp_path, tokenizer):
    write_corpora(tmp_path / "in", pages=20)
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe(tmp_path / "o", tmp_path / "in", tokenizer)))
    done = subprocess.run(
        [sys.executable, "-m", "data.prepare", str(path), "--limit=12", "--profile"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for stage in ("read", "clean", "survey", "comprehension", "tokenize", "pack"):
        assert f" {stage} " in done.stdout
    assert card(tmp_path / "o", "reading")["documents_in"] == 12
    done = subprocess.run(
        [sys.executable, "-m", "data.prepare", str(path), "--limit=0"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "--limit: '0'" in done.stderr


def test_flags_that_are_not_ours_go_to_beam():
    argv = ["r.yaml", "seq_len=8", "--beam_runner=DataflowRunner", "--project=p", "--dry-run"]
    assert split_flags(argv) == (
        ["r.yaml", "seq_len=8", "--beam_runner=DataflowRunner", "--dry-run"],
        ("--project=p",),
    )
    assert split_flags(["r.yaml", "--project=p"]) == (["r.yaml", "--project=p"], ())


@pytest.mark.parametrize("seq_len", [256, 2048])
def test_medquad_is_read_to_the_last_character(realdata, tmp_path, seq_len):
    """What goes into conversion comes out of it: chunks cover every character of the cleaned text.

    White space between chunks aside.
    """
    from data.clean.config import CleanConfig
    from data.clean.stages import cleaner
    from data.sources import read

    with gzip.open(realdata / "medquad.jsonl.gz", "rt") as file:
        (tmp_path / "a.jsonl").write_text("".join(itertools.islice(file, 0, 12000, 20)))
    settings = recipe(tmp_path / "o", tmp_path, str(realdata / "llama2-tokenizer.model"))
    corpus = settings["corpora"]["reading"] | {
        "path": str(tmp_path / "a.jsonl"),
        "fields": {"text": "answer", "title": "focus", "group": "url"},
    }
    settings |= {"corpora": {"reading": corpus}, "seq_len": seq_len, "count_tokens_in": True}
    config = PrepareConfig.model_validate(settings)
    prepare(config)
    told = card(tmp_path / "o", "reading")
    parts: dict[str, list[Document]] = {}
    for document in documents(tmp_path / "o", "reading"):
        parts.setdefault(document.meta.get("parent", document.id), []).append(document)
    clean = cleaner(CleanConfig())
    found = 0
    for document in read(config.corpora["reading"], "reading", set_aside=print):
        if document.id not in parts:
            continue
        cleaned = clean(document).document
        assert cleaned is not None
        text = cleaned.turns[0].text
        covered = [char.isspace() for char in text]
        for part in parts[document.id]:
            if "tasks" not in part.meta:  # it passed as it was
                assert part.turns == cleaned.turns
                covered = [True] * len(text)
                continue
            begin = part.meta.get("span", [0, len(text)])[0]
            for turn, start, stop, at in part.meta["read"]:
                assert part.turns[turn].text[start:stop] == text[begin + at :][: stop - start]
                covered[begin + at : begin + at + stop - start] = [True] * (stop - start)
        # A line that is asked for (the document's title, a section's) is the answer instead.
        asked = {
            " ".join(f"{task['question']} {task['answer']}".split())
            for part in parts[document.id]
            for task in part.meta.get("tasks", ())
            if task["family"] in ("title", "section")
        }
        left = "".join(
            " " if done and char != "\n" else char for char, done in zip(text, covered, strict=True)
        )
        for line in filter(None, map(str.strip, left.splitlines())):
            assert any(" ".join(line.split()) in said for said in asked), line
        found += 1
    assert found == len(parts)
    assert found <= told["documents_kept"]  # equal documents have one id
    removed = sum(sum(reasons.values()) for reasons in told["removed"].values())
    assert told["documents_in"] == told["documents_kept"] + told["heldout"]["documents"] + removed
    assert told["tokens_in"] < told["tokens_out"]
    assert (
        sum(row.segment_ids.astype(bool).sum() for row in read_rows(tmp_path / "o/reading"))
        == (told["tokens_out"])
    )
