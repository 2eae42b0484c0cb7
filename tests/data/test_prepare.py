"""The whole preparation: nothing lost, nothing that varies, nothing that a kill can spoil."""

import gzip
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zstandard

from data import corpus as corpus_lib
from data import prepare, rows
from data import runs as runs_lib
from data.config import PrepareConfig
from data.document import Document, Turn, document_id
from data.executor import run_tasks
from data.runs import Dealer, find_runs, read_lines
from data.tokenizer import load_tokenizer

ROOT = Path(__file__).resolve().parents[2]
REALDATA = os.environ.get("LECTERN_REALDATA")
WORDS = [
    "the",
    "cell",
    "of",
    "a",
    "gene",
    "in",
    "blood",
    "and",
    "tissue",
    "was",
    "found",
    "to",
    "bind",
    "when",
    "patients",
    "with",
    "acute",
    "disease",
    "received",
    "low",
    "dose",
]


def text(rng: random.Random, longest: int = 120) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(3, longest))) + "."


def corpus(n: int, seed: int) -> list[dict]:
    rng = random.Random(seed)
    made = [
        {"text": text(rng), "question": text(rng, 12), "answer": text(rng), "page": f"page{i // 2}"}
        for i in range(n)
    ]
    return [*made, made[0], made[0]]  # equal documents share an id


def write_jsonl(path: Path, items: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(item) + "\n" for item in items))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> str:
    from data.config import SentencePieceConfig
    from data.tokenizer import train_sentencepiece

    folder = tmp_path_factory.mktemp("tokenizer")
    train_sentencepiece(
        [text(random.Random(i)) for i in range(200)],
        str(folder),
        SentencePieceConfig(vocab_size=320),
    )
    return str(folder)


def recipe(out: Path, inputs: Path, tokenizer: str, **changes) -> dict:
    return {
        "out_dir": str(out),
        "tokenizer": tokenizer,
        "seq_len": 64,
        "partitions": 4,
        "workers": 1,
        "heldout": {"fraction": 0.1},
        "clean": None,
        "corpora": {
            "texts": {"path": f"{inputs}/*.jsonl", "fields": {"text": "text", "group": "page"}},
            "pairs": {
                "path": f"{inputs}/*.jsonl",
                "fields": {"prompt": "question", "response": "answer", "group": "page"},
                "convert": "conversation",
            },
        },
    } | changes


def run(settings: dict) -> dict:
    return prepare.prepare(PrepareConfig.model_validate(settings))


def digests(out: Path) -> dict[str, str]:
    """Every file but those that may differ between runs of one recipe."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != "run.json"
    }


def read_documents(path: Path) -> list[Document]:
    with zstandard.open(path, "rb") as file:
        return [Document.from_json(line) for line in io.TextIOWrapper(file, encoding="utf-8")]


def segments_of(folder: Path) -> list[tuple[tuple[int, ...], tuple[bool, ...]]]:
    found = []
    for row in rows.read_rows(folder):
        for k in range(1, row.segment_ids.max() + 1):
            here = row.segment_ids == k
            found.append((tuple(row.tokens[here].tolist()), tuple(row.loss_mask[here].tolist())))
    return found


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, tokenizer) -> tuple[Path, Path]:
    inputs, out = tmp_path_factory.mktemp("in"), tmp_path_factory.mktemp("out") / "o"
    items = corpus(300, 0)
    write_jsonl(inputs / "a.jsonl", items)
    run(recipe(out, inputs, tokenizer))
    return inputs, out


def test_every_document_is_packed_once_or_held_out(prepared, tokenizer):
    inputs, out = prepared
    encoder = load_tokenizer(tokenizer)
    items = [json.loads(line) for line in (inputs / "a.jsonl").read_text().splitlines()]
    heldout = [d.turns[0].text for d in read_documents(out / "texts/heldout/documents.jsonl.zst")]
    card = json.loads((out / "texts/card.json").read_text())
    stream = rows.read_stream(out / "texts")
    assert 0 < card["heldout"]["documents"] == len(heldout)
    assert card["documents_in"] == len(items) == card["documents_out"] + len(heldout)
    expected = []
    for item in items:
        if item["text"] not in heldout:
            ids = (
                [encoder.bos_id] * encoder.add_bos
                + encoder.encode(item["text"]).tolist()
                + [encoder.eos_id]
            )
            expected += [tuple(ids[i : i + 64]) for i in range(0, len(ids), 64)]
    found = segments_of(out / "texts")
    assert sorted(tokens for tokens, _ in found) == sorted(expected)
    assert all(mask == (False,) + (True,) * (len(mask) - 1) for _, mask in found)
    assert card["tokens_in"] == card["tokens_out"] == stream["tokens"] == sum(map(len, expected))
    assert stream["supervised"] == sum(sum(mask) for _, mask in found)
    assert stream["num_rows"] == card["rows"] == sum(s["rows"] for s in stream["shards"])
    assert len(stream["shards"]) == 4
    assert stream["tokenizer"] == encoder.fingerprint
    assert stream["fingerprint"] == rows.fingerprint(stream, card)


def test_held_out_rows_supervise_all_text_and_no_special_token(prepared, tokenizer):
    _, out = prepared
    encoder = load_tokenizer(tokenizer)
    for name in ("texts", "pairs"):
        stream = rows.read_stream(out / name / "heldout")
        found = segments_of(out / name / "heldout")
        assert stream["name"] == f"{name}/heldout"
        for tokens, mask in found:
            assert mask[0] is False
            for token, supervised in zip(tokens[1:], mask[1:], strict=True):
                assert supervised == (token not in (encoder.bos_id, encoder.eos_id))
    documents = read_documents(out / "pairs/heldout/documents.jsonl.zst")
    assert all(
        [turn.role for turn in document.turns] == ["user", "assistant"] for document in documents
    )


def test_a_group_is_on_one_side_in_all_corpora(prepared):
    _, out = prepared
    sides: dict[str, set[bool]] = {}
    for name in ("texts", "pairs"):
        held = read_documents(out / name / "heldout/documents.jsonl.zst")
        kept = [
            d for part in sorted((out / name / "documents").iterdir()) for d in read_documents(part)
        ]
        for documents, side in ((held, True), (kept, False)):
            for document in documents:
                sides.setdefault(document.meta["group"], set()).add(side)
    assert len(sides) == 150
    assert all(len(side) == 1 for side in sides.values())


def test_partitions_hold_their_documents_sorted_by_id(prepared):
    from data.document import partition_of

    _, out = prepared
    for i in range(4):
        ids = [d.id for d in read_documents(out / f"texts/documents/part-{i:05d}.jsonl.zst")]
        assert ids == sorted(ids)
        assert ids
        assert {partition_of(id_, 4) for id_ in ids} == {i}


def test_bytes_do_not_depend_on_files_order_workers_or_hash_seed(prepared, tokenizer, tmp_path):
    inputs, out = prepared
    lines = (inputs / "a.jsonl").read_text().splitlines(keepends=True)
    random.Random(5).shuffle(lines)
    many = tmp_path / "in"
    many.mkdir()
    for i in range(5):
        (many / f"{9 - i}.jsonl").write_text("".join(lines[i::5]))
    settings = recipe(tmp_path / "o", many, tokenizer, workers=2)
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(settings))
    env = {**os.environ, "PYTHONHASHSEED": "77"}
    subprocess.run(
        [sys.executable, "-m", "data.prepare", str(path)],
        check=True,
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
    )
    assert digests(tmp_path / "o") == digests(out)


def test_a_second_run_does_nothing_and_says_so(prepared, tokenizer, capsys):
    inputs, out = prepared
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    capsys.readouterr()
    streams = run(recipe(out, inputs, tokenizer))
    assert capsys.readouterr().out == f"{out}: prepared already, nothing to do.\n"
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert streams["texts"] == rows.read_stream(out / "texts")


def test_changed_settings_are_said_and_prepared_again(tmp_path, tokenizer, capsys):
    write_jsonl(tmp_path / "in/a.jsonl", corpus(60, 1))
    out = tmp_path / "o"
    run(recipe(out, tmp_path / "in", tokenizer))
    capsys.readouterr()
    run(recipe(out, tmp_path / "in", tokenizer, seq_len=32, partitions=2))
    said = capsys.readouterr().out
    assert said.count("changed since it was prepared") == 2
    assert "texts: seq_len, partitions changed" in said
    fresh = tmp_path / "fresh"
    run(recipe(fresh, tmp_path / "in", tokenizer, seq_len=32, partitions=2))
    assert digests(out) == digests(fresh)
    assert not (out / ".work").exists()


def test_a_changed_corpus_leaves_the_others(tmp_path, tokenizer, capsys):
    write_jsonl(tmp_path / "in/a.jsonl", corpus(60, 1))
    settings = recipe(tmp_path / "o", tmp_path / "in", tokenizer)
    run(settings)
    before = (tmp_path / "o/texts/stream.json").stat().st_mtime_ns
    settings["corpora"]["pairs"]["chat"] = {"train_on": "assistant"}
    capsys.readouterr()
    run(settings)
    assert "pairs: chat changed" in capsys.readouterr().out
    assert (tmp_path / "o/texts/stream.json").stat().st_mtime_ns == before


def is_running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def kill_when(settings: dict, folder: Path, condition) -> bool:
    """Runs the real command and kills it outright once `condition()`; whether it was still running then."""
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(settings))
    process = subprocess.Popen(
        [sys.executable, "-m", "data.prepare", str(path)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    while process.poll() is None and not condition():
        time.sleep(0.001)
    alive = process.poll() is None
    if alive:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        pids = children.read_text().split() if children.exists() else []
        process.send_signal(signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 60
        while any(is_running(pid) for pid in pids):
            assert time.monotonic() < deadline, "workers outlived the command"
            time.sleep(0.01)
    _, errors = process.communicate()
    assert alive or process.returncode == 0, errors.decode()
    return alive


@pytest.mark.parametrize(
    ("moment", "workers"),
    [
        ("dealing", 1),
        ("first shard", 1),
        ("half of the shards", 1),
        ("first shard", 2),
        ("heldout", 1),
    ],
)
def test_killed_and_run_again_gives_the_same_bytes(moment, workers, tmp_path, tokenizer, prepared):
    inputs, reference = prepared
    out = tmp_path / "o"
    conditions = {
        "dealing": lambda: any(out.glob(".work/spool/*/*/*")),
        "first shard": lambda: any(out.glob(".work/*/part-*.json")),
        "half of the shards": lambda: len(list(out.glob(".work/*/part-*.json"))) >= 4,
        "heldout": lambda: any(out.glob("*/heldout/*.zst")),
    }
    hit = kill_when(recipe(out, inputs, tokenizer, workers=workers), tmp_path, conditions[moment])
    assert hit, "the run ended before the moment came"
    assert not (out / "pairs/stream.json").exists()
    kept = {p: p.stat().st_mtime_ns for p in out.glob(".work/*/part-*.json")}
    shards = {
        p: p.stat().st_mtime_ns
        for record in kept
        for p in (out / record.parent.name).glob(f"rows-train.array_record-{record.stem[5:]}-*")
    }
    run(recipe(out, inputs, tokenizer))
    assert digests(out) == digests(reference)
    assert not (out / ".work").exists()
    if moment != "dealing":
        assert shards, "no finished shard"
    assert {p: p.stat().st_mtime_ns for p in shards} == shards  # kept, not made again


def test_rows_that_make_no_document_are_kept_with_their_reasons(tmp_path, tokenizer):
    write_jsonl(tmp_path / "in/a.jsonl", corpus(40, 2))
    with open(tmp_path / "in/a.jsonl", "a") as file:
        file.write('{"text": "broken\n{"text": "", "page": "p"}\n')
    settings = recipe(tmp_path / "o", tmp_path / "in", tokenizer)
    del settings["corpora"]["pairs"]
    run(settings)
    with zstandard.open(tmp_path / "o/texts/set_aside.jsonl.zst", "rb") as file:
        kept = [json.loads(line) for line in file.read().decode().splitlines()]
    card = json.loads((tmp_path / "o/texts/card.json").read_text())
    assert len(kept) == 2 == sum(card["removed"]["read"].values())
    assert any(item["place"].endswith("a.jsonl:43") for item in kept)
    assert card["documents_in"] == 44


def test_a_conversation_that_fits_no_template_is_set_aside_and_the_rest_goes_on(
    tmp_path, tokenizer
):
    def conversation(*roles: str) -> list[dict]:
        return [{"role": role, "content": f"{role} says {i}."} for i, role in enumerate(roles)]

    good = [{"id": str(i), "turns": conversation("user", "assistant") * 3} for i in range(20)]
    for i, item in enumerate(good):
        item["turns"][0]["content"] += f" Number {i}."
    bad = [{"id": "bad", "turns": conversation("assistant", "assistant")}]
    write_jsonl(tmp_path / "in/a.jsonl", good[:10] + bad + good[10:])
    settings = recipe(
        tmp_path / "o", tmp_path / "in", tokenizer, heldout={"fraction": 0.0}, partitions=1
    )
    settings["corpora"] = {
        "talk": {
            "path": f"{tmp_path}/in/a.jsonl",
            "fields": {"turns": "turns", "id": "id"},
            "convert": "conversation",
            "chat": {"template": "llama2", "train_on": "assistant"},
        }
    }
    run(settings)
    card = json.loads((tmp_path / "o/talk/card.json").read_text())
    assert card["documents_in"] == 21
    assert card["documents_out"] == 20
    (reasons,) = card["removed"].values()
    assert sum(reasons.values()) == 1
    (part,) = (tmp_path / "o/talk/documents").iterdir()
    assert {d.meta["source_id"] for d in read_documents(part)} == {str(i) for i in range(20)}
    with zstandard.open(tmp_path / "o/talk/set_aside.jsonl.zst", "rb") as file:
        (item,) = map(json.loads, file.read().decode().splitlines())
    assert item["source"] == "talk"
    assert "assistant says" in item["excerpt"]


def test_near_duplicates_without_a_group_are_on_one_side(tmp_path, tokenizer):
    """One page in two corpora, edited a little and quoted in a conversation; no corpus names a group."""
    rng = random.Random(3)
    pages = [" ".join(f"w{rng.randrange(4000)}" for _ in range(150)) for _ in range(60)]
    edited = [page.replace("w1", "W1", 3).replace(" ", "  ", 5) + " ." for page in pages]
    changed = [" ".join(w if i != 70 else "other" for i, w in enumerate(p.split())) for p in pages]
    write_jsonl(tmp_path / "in/a.jsonl", [{"text": p} for p in pages])
    write_jsonl(tmp_path / "in/b.jsonl", [{"text": p} for p in edited + changed])
    write_jsonl(tmp_path / "in/c.jsonl", [{"q": "What does it say?", "a": p} for p in pages])
    settings = recipe(
        tmp_path / "o", tmp_path / "in", tokenizer, heldout={"fraction": 0.3}, partitions=2
    )
    settings["corpora"] = {
        "a": {"path": f"{tmp_path}/in/a.jsonl", "fields": {"text": "text"}},
        "b": {"path": f"{tmp_path}/in/b.jsonl", "fields": {"text": "text"}},
        "c": {
            "path": f"{tmp_path}/in/c.jsonl",
            "fields": {"prompt": "q", "response": "a"},
            "convert": "conversation",
        },
    }
    run(settings)
    held = {
        name: {
            d.turns[-1].text
            for d in read_documents(tmp_path / "o" / name / "heldout/documents.jsonl.zst")
        }
        for name in "abc"
    }
    for page, edit, change in zip(pages, edited, changed, strict=True):
        sides = {
            page in held["a"],
            edit.strip() in held["b"] or edit in held["b"],
            change in held["b"],
            page in held["c"],
        }
        assert len(sides) == 1, page
    assert 5 < len(held["a"]) < 35


def test_trained_tokenizer_sees_no_held_out_document(tmp_path):
    rng = random.Random(4)
    items = [{"text": text(rng), "page": f"p{i}"} for i in range(200)]
    from data.split import is_held_out

    for item in items:
        if is_held_out(item["page"], 0.2):
            item["text"] += " ζζζζ ζζζζ ζζζζ"
    write_jsonl(tmp_path / "in/a.jsonl", items)
    settings = recipe(tmp_path / "o", tmp_path / "in", "", heldout={"fraction": 0.2})
    del settings["corpora"]["pairs"], settings["tokenizer"]
    settings["train_tokenizer"] = {"vocab_size": 320}
    run(settings)
    trained = load_tokenizer(str(tmp_path / "o/tokenizer"))
    assert rows.read_stream(tmp_path / "o/texts")["tokenizer"] == trained.fingerprint
    assert len(trained.encode("ζ")) > len(
        trained.encode("a")
    )  # bytes: the character was never seen
    again = settings | {"out_dir": str(tmp_path / "p")}
    run(again)
    assert digests(tmp_path / "o") == digests(tmp_path / "p")


def test_dealing_keeps_every_line_whatever_the_runs(tmp_path, monkeypatch):
    rng = random.Random(6)
    documents = []
    for _ in range(500):
        turns = (Turn("text", f"{text(rng)}\u2028\n é"),)
        documents.append(Document(document_id(turns), turns, "c", {}))
    documents += documents[:7]
    expected = sorted(d.to_json() for d in documents)
    for run_bytes, most in ((1 << 30, 256), (5_000, 256), (5_000, 3)):
        monkeypatch.setattr(runs_lib, "MAX_OPEN_RUNS", most)
        folder = tmp_path / f"{run_bytes}-{most}"
        dealer = Dealer(folder, 4, run_bytes)
        for document in documents:
            dealer.add(document)
        dealer.close()
        runs = find_runs([folder])
        assert (len(runs) > 3) == (run_bytes == 5_000)
        parts = [[line.decode().rstrip("\n") for line in read_lines(runs, [b])] for b in range(4)]
        assert all(part == sorted(part) for part in parts)
        assert sorted(line for part in parts for line in part) == expected
        both = [line.decode().rstrip("\n") for line in read_lines(runs, [1, 3])]
        assert both == sorted(parts[1] + parts[3])


def fail_on_three(task: int, advance) -> int:
    advance(1.0)
    if task == 3:
        raise KeyError("a defect")
    return task * task


def test_tasks_come_back_in_order_and_report(tmp_path):
    done = []
    assert run_tasks(fail_on_three, [0, 1, 2], workers=1, advance=done.append) == [0, 1, 4]
    assert done == [1.0] * 3
    with pytest.raises(KeyError, match="a defect"):
        run_tasks(fail_on_three, [1, 3], workers=1, advance=done.append)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tokenizer": "/nowhere/t.model"}, ["/nowhere/t.model"]),
        ({"corpora": {"a": {"path": "/nowhere/x.jsonl"}}}, ["corpora.a.path", "/nowhere/x.jsonl", "does not exist"]),
        ({"texts": {"fields": {"text": "txt"}}}, ["txt", "text", "a.jsonl"]),
        ({"texts": {"convert": "conversation"}}, ["corpora.texts.convert", "fields.prompt"]),
        ({"out_dir": "{file}/out"}, ["out_dir", "cannot be written"]),
        ({"heldout": {"fraction": 0.999999999}}, ["all 42 documents are held out", "heldout.fraction"]),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_message(change, says, tmp_path, tokenizer):
    write_jsonl(tmp_path / "in/a.jsonl", corpus(40, 2))
    (tmp_path / "file").write_text("")
    settings = recipe(tmp_path / "o", tmp_path / "in", tokenizer, workers=2)
    settings["corpora"].pop("pairs")
    settings["corpora"]["texts"] |= change.pop("texts", {})
    settings |= json.loads(json.dumps(change).replace("{file}", str(tmp_path / "file")))
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(settings))
    result = subprocess.run(
        [sys.executable, "-m", "data.prepare", str(path)], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    for piece in says:
        assert piece in result.stderr


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path, tokenizer):
    write_jsonl(tmp_path / "in/a.jsonl", corpus(40, 2))
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe(tmp_path / "o", tmp_path / "in", tokenizer)))
    result = subprocess.run(
        [sys.executable, "-m", "data.prepare", str(path), "seq_len=128", "--dry-run"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "seq_len: 128" in result.stdout
    assert "texts: 1 inputs" in result.stdout
    assert "partitions: 4" in result.stdout
    assert not (tmp_path / "o").exists()


def test_small_corpora_get_fewer_partitions():
    config = PrepareConfig.model_validate(
        {"out_dir": "o", "tokenizer": "t", "corpora": {"a": {"path": "x"}}}
    )
    assert corpus_lib.num_partitions(config, 1000) == 1
    assert corpus_lib.num_partitions(config, 21_400_000) == 8
    assert corpus_lib.num_partitions(config, 10**12) == 64
    assert corpus_lib.num_partitions(config.model_copy(update={"partitions": 3}), 1000) == 3


@pytest.mark.skipif(not REALDATA, reason="LECTERN_REALDATA is not set")
def test_medquad_fills_its_rows_and_loses_no_token(tmp_path):
    with gzip.open(f"{REALDATA}/medquad.jsonl.gz", "rt") as file:
        items = [json.loads(line) for line, _ in zip(file, range(1500), strict=False)]
    write_jsonl(tmp_path / "in/a.jsonl", [{"text": i["answer"], "page": i["url"]} for i in items])
    settings = recipe(
        tmp_path / "o", tmp_path / "in", f"{REALDATA}/llama2-tokenizer.model", partitions=None
    )
    settings |= {"seq_len": 512, "heldout": {"fraction": 0.0}}
    del settings["corpora"]["pairs"]
    stream = run(settings)["texts"]
    encoder = load_tokenizer(f"{REALDATA}/llama2-tokenizer.model")
    expected = sum(
        len(encoder.encode(item["answer"])) + 2 for item in items if item["answer"].strip()
    )
    assert stream["tokens"] == expected
    assert stream["tokens"] / (stream["num_rows"] * 512) >= 0.98
    counts = np.zeros(encoder.vocab_size, int)
    for row in rows.read_rows(tmp_path / "o/texts"):
        np.add.at(counts, row.tokens[row.segment_ids > 0], 1)
    assert counts[encoder.bos_id] == counts[encoder.eos_id] == stream["documents"]
