"""Every kind of source, and everything that can be wrong with one."""

import bz2
import csv
import gzip
import itertools
import json
import lzma
import tracemalloc
from collections import Counter

import numpy as np
import pytest
import zstandard

from data import formats
from data.config import CorpusConfig, FieldsConfig
from data.document import Turn
from data.sources import list_inputs, read


def collect(path, *, part=(0, 1), fields=None, **settings):
    """Documents, and what was set aside."""
    path = tuple(map(str, path)) if isinstance(path, list | tuple) else str(path)
    corpus = CorpusConfig(path=path, fields=FieldsConfig(**(fields or {})), **settings)
    aside = []
    return list(read(corpus, "corpus", set_aside=aside.append, part=part)), aside


def texts(path, **settings):
    documents, aside = collect(path, **settings)
    assert not aside
    return [turn.text for document in documents for turn in document.turns]


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# Kinds of source

PACKS = [
    (".gz", gzip.compress),
    (".bz2", bz2.compress),
    (".xz", lzma.compress),
    (".zst", zstandard.ZstdCompressor().compress),
]
ROWS = [{"text": "First.\nLine"}, {"text": "日本🙂"}, {"text": "Third", "more": 1}]


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [("", bytes), *PACKS],
)
def test_jsonl_compressed_or_not(tmp_path, suffix, pack):
    lines = [json.dumps(row, ensure_ascii=False).encode() for row in ROWS]
    # Two frames, as parallel compressors write; a byte order mark; a blank line; no newline at the end.
    data = pack(b"\xef\xbb\xbf" + lines[0] + b"\n\n") + pack(lines[1] + b"\r\n" + lines[2])
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(data)
    documents, aside = collect(path)
    assert [d.turns[0].text for d in documents] == ["First.\nLine", "日本🙂", "Third"]
    assert [d.source for d in documents] == [f"{path}:{line}" for line in (1, 3, 4)]
    assert not aside


@pytest.mark.parametrize("indent", [None, 2])
def test_json_arrays(tmp_path, indent):
    (tmp_path / "a.json").write_text(json.dumps([*ROWS, "bare"], indent=indent))
    (tmp_path / "b.json.gz").write_bytes(
        gzip.compress(json.dumps(ROWS[:1], indent=indent).encode())
    )
    documents, _ = collect(tmp_path)
    assert [d.turns[0].text for d in documents] == [
        "First.\nLine",
        "日本🙂",
        "Third",
        "bare",
        "First.\nLine",
    ]
    if indent:
        assert [d.source.rsplit(":", 1)[1] for d in documents[:4]] == ["2", "5", "8", "12"]


def test_json_that_is_no_array(tmp_path):
    lines = tmp_path / "lines.json"
    lines.write_text('{"text": "a"}\n{broken\n{"text": "b"}\n')
    documents, aside = collect(lines)
    assert [d.turns[0].text for d in documents] == ["a", "b"]
    assert aside[0].place == f"{lines}:2"
    objects = tmp_path / "objects.json"
    objects.write_text('{\n "text": "a"\n}\n{\n "text": "b"\n}')
    assert texts(objects) == ["a", "b"]


def test_json_arrays_are_read_in_blocks(tmp_path):
    body = "x" * 100_000
    path = tmp_path / "a.json"
    with path.open("w") as file:
        file.write("[")
        for number in range(400):
            file.write(("," if number else "") + json.dumps({"text": f"{number} {body}"}))
        file.write("]")
    corpus = CorpusConfig(path=str(path))
    tracemalloc.start()
    try:
        count = sum(1 for _ in read(corpus, "corpus", set_aside=pytest.fail))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 400
    assert peak < path.stat().st_size / 4


def test_csv(tmp_path):
    path = tmp_path / "a.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([["q", "a"], ["one,\ntwo", 'say "x"'], ["q2", "a2"]])
    documents, _ = collect(path, fields={"prompt": "q", "response": "a"})
    assert documents[0].turns == (Turn("user", "one,\ntwo"), Turn("assistant", 'say "x"'))
    assert [d.source for d in documents] == [f"{path}:2", f"{path}:4"]
    (tmp_path / "b.tsv").write_text("q\ta\nx\ty\nshort\n")
    documents, aside = collect(tmp_path / "b.tsv", fields={"text": "a"})
    assert [d.turns[0].text for d in documents] == ["y"]
    assert aside[0].reason.startswith("broken CSV: 1 fields, the header has 2")


def test_csv_without_a_header(tmp_path):
    (tmp_path / "a.csv").write_text("1,what,that\n0,who,she\n")
    fields = {"prompt": "1", "response": "2", "group": "0"}
    documents, _ = collect(tmp_path / "a.csv", fields=fields)
    assert [d.meta["group"] for d in documents] == ["1", "0"]
    assert documents[0].turns == (Turn("user", "what"), Turn("assistant", "that"))


def test_parquet(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "body": ["a", None, "c"],
            "who": [{"name": "n1", "x": 1}, {"name": "n2", "x": 2}, {"name": "n3", "x": 3}],
            "heavy": [b"\0" * 100] * 3,
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    documents, aside = collect(tmp_path, fields={"text": "body", "group": "who.name"})
    assert [(d.turns[0].text, d.meta["group"]) for d in documents] == [("a", "n1"), ("c", "n3")]
    assert documents[1].source == f"{tmp_path}/a.parquet:3"
    assert [item.reason for item in aside] == ["empty document"]
    with pytest.raises(
        ValueError, match=r"a\.parquet:1: .*no field 'text'; there are: body, who, heavy"
    ):
        collect(tmp_path)


def test_text_files_one_document_each(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfTitle\nBody  \n\n")
    (tmp_path / "sub" / "a.txt.gz").write_bytes(gzip.compress(b"second"))
    (tmp_path / ".hidden.txt").write_text("no")
    (tmp_path / "README.md").write_text("no")
    documents, _ = collect(tmp_path, fields={"id": "name"})
    assert [d.turns[0].text for d in documents] == ["Title\nBody  ", "second"]
    assert [d.meta["source_id"] for d in documents] == ["b", "a"]
    assert documents[0].source == f"{tmp_path}/b.txt:1"


def test_several_paths_and_globs_in_one_order(tmp_path):
    for name in ("b1", "b2", "a1"):
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / name / "x.jsonl", [{"text": name}])
    assert texts([tmp_path / "b*" / "x.jsonl", tmp_path / "a1"]) == ["a1", "b1", "b2"]
    assert texts([tmp_path / "a1", tmp_path / "b*" / "*.jsonl"]) == ["a1", "b1", "b2"]
    assert texts(tmp_path / "**" / "x.jsonl") == ["a1", "b1", "b2"]
    overlapping = [tmp_path / "a1" / "x.jsonl", tmp_path / "a1"]
    assert texts(overlapping) == ["a1"]


def test_remote_files_go_through_fsspec():
    import fsspec

    fs = fsspec.filesystem("memory")
    fs.pipe("/bucket/corpus/a.jsonl", b'{"text": "a"}\n')
    fs.pipe("/bucket/corpus/deep/b.jsonl.gz", gzip.compress(b'{"text": "b"}\n'))
    documents, _ = collect("memory://bucket/corpus")
    assert [d.turns[0].text for d in documents] == ["a", "b"]
    assert documents[0].source.endswith("/bucket/corpus/a.jsonl:1")
    assert texts("memory://bucket/corpus/*.jsonl") == ["a"]
    with pytest.raises(ValueError, match="memory://bucket/nothing does not exist"):
        collect("memory://bucket/nothing")


def test_hugging_face_datasets_saved_to_disk(tmp_path):
    import datasets

    rows = [
        {"conversations": [{"from": "human", "value": f"q{i}"}, {"from": "gpt", "value": "a"}]}
        for i in range(9)
    ]
    data = datasets.Dataset.from_list(rows)
    data.save_to_disk(tmp_path / "one", num_shards=3)
    datasets.DatasetDict({"train": data, "test": data.select([4])}).save_to_disk(tmp_path / "dict")
    fields = {"turns": "conversations"}
    for format_ in ("auto", "huggingface"):
        documents, _ = collect(tmp_path / "one", fields=fields, format=format_)
        assert [d.turns[0].text for d in documents] == [f"q{i}" for i in range(9)]
        assert {len(d.turns) for d in documents} == {2}
    assert len(list_inputs(CorpusConfig(path=str(tmp_path / "one")))) == 3
    documents, _ = collect(tmp_path / "dict", fields=fields, split="test")
    assert [d.turns[0].text for d in documents] == ["q4"]
    with pytest.raises(ValueError, match="has no split 'dev'; there are: train, test"):
        collect(tmp_path / "dict", fields=fields, split="dev")


def test_hugging_face_folders_of_data_files(tmp_path):
    (tmp_path / "data").mkdir()
    for shard in range(3):
        rows = [{"body": f"train {shard} {i}"} for i in range(2)]
        write_jsonl(tmp_path / "data" / f"train-{shard:05d}-of-00003.jsonl", rows)
    write_jsonl(tmp_path / "data" / "test-00000-of-00001.jsonl", [{"body": "test"}])
    settings = {"format": "huggingface", "fields": {"text": "body"}}
    assert texts(tmp_path, split="test", **settings) == ["test"]
    expected = [f"train {shard} {i}" for shard in range(3) for i in range(2)]
    assert texts(tmp_path, **settings) == expected
    parts = [texts(tmp_path, part=(i, 2), **settings) for i in range(2)]
    assert sorted(itertools.chain(*parts)) == expected
    assert all(parts)
    with pytest.raises(ValueError, match=r"split dev\) cannot be read as a Hugging Face data set"):
        collect(tmp_path, split="dev", **settings)


def test_tfds_without_tensorflow(tmp_path):
    import sys

    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    features = tfds.features.FeaturesDict(
        {
            "title": tfds.features.Text(),
            "turns": tfds.features.Sequence(
                {"role": tfds.features.Text(), "content": tfds.features.Text()}
            ),
            "scores": tfds.features.Tensor(shape=(2,), dtype=np.float32),
        }
    )
    serializer = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info())
    folder = tmp_path / "talks" / "1.0.0"
    folder.mkdir(parents=True)
    writer = ArrayRecordWriter(
        str(folder / "talks-train.array_record-00000-of-00001"), "group_size:1"
    )
    for i in range(5):
        turns = [{"role": "user", "content": f"q{i} é"}, {"role": "assistant", "content": "a"}]
        row = {"title": f"t{i}", "turns": turns, "scores": np.ones(2, np.float32)}
        writer.write(serializer.serialize_example(features.encode_example(row)))
    writer.close()
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name="talks", split="train", filetype_suffix="array_record"
    )
    split = tfds.core.SplitInfo(
        name="train", shard_lengths=[5], num_bytes=0, filename_template=template
    )
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=features, split_infos=[split], check_data=False
    )

    fields = {"turns": "turns", "id": "title"}
    for path, format_ in ((folder, "auto"), (folder, "tfds"), (folder.parent, "tfds")):
        documents, aside = collect(path, fields=fields, format=format_)
        assert [d.turns[0].text for d in documents] == [f"q{i} é" for i in range(5)]
        assert documents[3].turns == (Turn("user", "q3 é"), Turn("assistant", "a"))
        assert documents[3].meta["source_id"] == "t3"
        assert not aside
    with pytest.raises(ValueError, match="no field 'text'; there are: scores, title, turns"):
        collect(folder)
    with pytest.raises(
        ValueError, match=r"split=?.*test.*cannot be read as a TFDS|split test\) cannot be read"
    ):
        collect(folder, fields=fields, split="test")
    assert "tensorflow" not in sys.modules


def test_shares_of_a_tfds_data_set_cover_it(tmp_path, monkeypatch):
    from data import sources

    class Source(list):
        def __getitems__(self, numbers):
            return [self[number] for number in numbers]

    rows = Source({"text": f"row {i}"} for i in range(1000))
    monkeypatch.setattr(sources, "TFDS_ROWS", 100)
    monkeypatch.setattr(formats, "open_tfds", lambda path, name, split: rows)
    corpus = CorpusConfig(path="made", format="tfds")
    assert list_inputs(corpus) == [f"made#{i}-of-10" for i in range(10)]
    parts = [texts("made", format="tfds", part=(i, 3)) for i in range(3)]
    assert sorted(itertools.chain(*parts)) == sorted(row["text"] for row in rows)


# Fields


def one(row, tmp_path, **fields):
    documents, aside = collect(write_jsonl(tmp_path / "row.jsonl", [row]), fields=fields)
    assert not aside, aside
    return documents[0]


def test_text_with_title_id_and_group(tmp_path):
    row = {"body": "Text.", "head": "Title", "n": 7, "url": "u", "a.b": "dotted"}
    document = one(row, tmp_path, text="body", title="head", id="n", group="url")
    assert document.turns == (Turn("text", "Title\nText."),)
    assert document.meta == {"source_id": "7", "group": "u", "title": "Title"}
    assert one(row, tmp_path, text="a.b").turns[0].text == "dotted"


def test_the_id_is_of_what_was_read_and_not_of_where(tmp_path):
    a = one({"text": "T", "id": 1}, tmp_path, text="text", id="id")
    b = one({"x": {"y": "T"}}, tmp_path, text="x.y")
    assert a.id == b.id
    assert a.id != one({"text": "U"}, tmp_path).id


def test_paths_reach_into_objects_and_lists(tmp_path):
    row = {
        "c": {"contexts": ["one", "two"], "labels": ["A", "B"]},
        "answers": [{"text": "x"}, {"text": "y"}],
        "abstract": "abs",
    }
    assert one(row, tmp_path, text="c.contexts").turns[0].text == "one\n\ntwo"
    assert one(row, tmp_path, text="c.contexts.1").turns[0].text == "two"
    assert one(row, tmp_path, text="answers.text").turns[0].text == "x\n\ny"
    assert one(row, tmp_path, text=("abstract", "c.labels")).turns[0].text == "abs\n\nA\n\nB"


def test_prompt_input_response_and_system(tmp_path):
    row = {"i": "Do it.", "in": "to this", "out": "Done.", "sys": "Be brief."}
    document = one(row, tmp_path, prompt="i", input="in", response="out", system="sys")
    assert document.turns == (
        Turn("system", "Be brief."),
        Turn("user", "Do it.\nto this"),
        Turn("assistant", "Done."),
    )
    row = row | {"in": "", "sys": None}
    document = one(row, tmp_path, prompt="i", input="in", response="out", system="sys")
    assert document.turns == (Turn("user", "Do it."), Turn("assistant", "Done."))
    document = one({"t": "Text."} | row, tmp_path, text="t", prompt="i", response="out")
    assert [turn.role for turn in document.turns] == ["text", "user", "assistant"]


@pytest.mark.parametrize(
    "turns",
    [
        [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "a"},
        ],
        [
            {"from": "system", "value": "s"},
            {"from": "human", "value": "q"},
            {"from": "gpt", "value": "a"},
        ],
        {"role": ["system", "user", "assistant"], "content": ["s", "q", "a"]},
        [
            {"role": "system", "content": [{"type": "text", "text": "s"}]},
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": [{"type": "text", "text": "a"}]},
        ],
    ],
)
def test_turns(tmp_path, turns):
    expected = (Turn("system", "s"), Turn("user", "q"), Turn("assistant", "a"))
    assert one({"deep": {"t": turns}}, tmp_path, turns="deep.t").turns == expected


def test_turns_that_are_strings_alternate(tmp_path):
    document = one({"t": ["q", "a", "q2"]}, tmp_path, turns="t")
    assert [(turn.role, turn.text) for turn in document.turns] == [
        ("user", "q"),
        ("assistant", "a"),
        ("user", "q2"),
    ]


# What is set aside


def test_broken_and_empty_rows_are_set_aside_with_their_place(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"text": "good"}\n{"text": "cut\n\n{"text": " "}\n{"text": null}\n"bare"\n[1]\n'
        b'{"text": "\xff"}\n{"text": "\\ud800"}\n{"other": "x"}\n{"text": "good too"}\n'
    )
    documents, aside = collect(path)
    assert [d.turns[0].text for d in documents] == ["good", "bare", "good too"]
    places = {int(item.place.rsplit(":", 1)[1]): item.reason.split(":")[0] for item in aside}
    assert places == {
        2: "broken JSON",
        4: "empty document",
        5: "empty document",
        7: "broken JSON",
        8: "not UTF-8",
        9: "not valid Unicode",
        10: "field missing",
    }
    assert all(item.place.startswith(str(path)) and item.source == "corpus" for item in aside)
    assert aside[0].excerpt == '{"text": "cut'


def test_conversations_that_are_none_are_set_aside(tmp_path):
    rows = [
        {"t": []},
        {"t": None},
        {"t": [{"role": "system", "content": "s"}]},
        {"t": [{"role": "tool", "content": "s"}]},
        {"t": ["q", " "]},
        {"t": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]},
    ]
    _, aside = collect(write_jsonl(tmp_path / "a.jsonl", rows), fields={"turns": "t"})
    assert [item.reason for item in aside] == [
        "empty document",
        "empty document",
        "empty document",
        "unknown role: tool",
        "empty turn: number 2 (assistant)",
        "a turn that is not text: list",
    ]
    rows = [{"q": "", "a": "x"}, {"q": "x", "a": None}, {"q": "", "a": ""}]
    _, aside = collect(
        write_jsonl(tmp_path / "a.jsonl", rows), fields={"prompt": "q", "response": "a"}
    )
    assert [item.reason for item in aside] == ["empty prompt", "empty response", "empty document"]


def test_binary_files_are_set_aside_whole(tmp_path):
    (tmp_path / "a.txt").write_text("good")
    (tmp_path / "b.txt").write_bytes(b"PK\x03\x04\0\0 zip")
    (tmp_path / "c.txt").write_bytes(b"line\ncaf\xe9 au lait")
    (tmp_path / "d.txt").write_bytes(b"a" * 20_000 + b"\0")
    (tmp_path / "e.jsonl").write_bytes(b"\0\1\2")
    (tmp_path / "f.parquet").write_bytes(b"no parquet")
    (tmp_path / "g.jsonl.gz").write_bytes(b"no gzip")
    (tmp_path / "h.txt").write_text(" \n")
    documents, aside = collect(tmp_path)
    assert [d.turns[0].text for d in documents] == ["good"]
    assert [
        (item.place.removeprefix(f"{tmp_path}/"), item.reason.split(":")[0]) for item in aside
    ] == [
        ("b.txt:1", "binary file"),
        ("c.txt:2", "not UTF-8"),
        ("d.txt:1", "binary file"),
        ("e.jsonl:1", "binary file"),
        ("f.parquet:1", "broken parquet file"),
        ("g.jsonl.gz:1", "broken compression"),
        ("h.txt:1", "empty document"),
    ]


@pytest.mark.parametrize(("suffix", "pack"), PACKS)
def test_a_download_that_broke_off_is_noticed(tmp_path, suffix, pack):
    rng = np.random.default_rng(0)
    lines = [json.dumps({"text": rng.bytes(300).hex()}) for _ in range(8000)]
    data = pack("\n".join(lines).encode())
    (tmp_path / f"a.jsonl{suffix}").write_bytes(data[: len(data) // 2])
    documents, aside = collect(tmp_path)
    assert 1000 < len(documents) < 4500
    assert aside[-1].reason.startswith("broken compression")


def test_a_json_array_that_breaks_off_says_what_is_lost(tmp_path):
    (tmp_path / "a.json").write_text(
        '[\n{"text": "a"},\n{"text": "b"},\n{"text": oops},\n{"text": "c"}]'
    )
    (tmp_path / "b.json").write_text('[{"text": "d"}')
    documents, aside = collect(tmp_path)
    assert [d.turns[0].text for d in documents] == ["a", "b", "d"]
    assert [item.place.rsplit("/", 1)[1] for item in aside] == ["a.json:4", "b.json:1"]
    assert all("what comes behind this place is lost" in item.reason for item in aside)


def test_rows_too_long_for_memory_are_set_aside(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "MAX_ROW_BYTES", 1000)
    lines = ['{"text": "a"}', json.dumps({"text": "b" * 5000}), '{"text": "c"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "b.txt").write_text("d" * 5000)
    documents, aside = collect(tmp_path)
    assert [d.turns[0].text for d in documents] == ["a", "c"]
    assert [item.reason.split(":")[0] for item in aside] == ["too long", "too long"]
    assert aside[0].place.endswith("a.jsonl:2")


# Mistakes of the recipe


def test_a_wrong_field_names_file_line_field_and_the_fields_there_are(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"answer": "x", "deep": {"k": {"z": "v"}}}])
    with pytest.raises(
        ValueError,
        match=r"a\.jsonl:1: corpora\.corpus\.fields\.text: anwser: no field 'anwser'; "
        r"there are: answer, deep; did you mean answer\?",
    ):
        collect(path, fields={"text": "anwser"})
    with pytest.raises(ValueError, match=r"no field 'q'; deep\.k has: z"):
        collect(path, fields={"text": "deep.k.q"})
    with pytest.raises(
        ValueError, match=r"text: deep is an object with the fields k; name one of them with a dot"
    ):
        collect(path, fields={"text": "deep"})
    with pytest.raises(ValueError, match=r"turns: answer holds str; a turn is \{role, content\}"):
        collect(path, fields={"turns": "answer"})
    with pytest.raises(ValueError, match=r"turns: deep holds an object with k"):
        collect(path, fields={"turns": "deep"})


def test_a_wrong_field_that_rows_may_lack_is_an_error_too(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}, {"text": "b", "head": "t"}])
    assert [d.meta for d in collect(path, fields={"text": "text", "title": "head"})[0]] == [
        {},
        {"title": "t"},
    ]
    for settings in ({}, {"limit": 1}):
        with pytest.raises(
            ValueError, match=r"a\.jsonl:1: .*fields\.title: heads: no field 'heads'"
        ):
            collect(path, fields={"text": "text", "title": "heads"}, **settings)


def test_a_wrong_optional_field_is_noticed_early(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": f"{i}"} for i in range(5000)])
    corpus = CorpusConfig(path=str(path), fields=FieldsConfig(text="text", group="url"))
    documents = read(corpus, "corpus", set_aside=pytest.fail)
    assert len(list(itertools.islice(documents, 900))) == 900
    with pytest.raises(ValueError, match=r"fields\.group: url"):
        list(itertools.islice(documents, 100))


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "q"},
        {"response": "q"},
        {"turns": "t", "prompt": "q", "response": "a"},
        {"text": "t", "input": "i"},
        {"turns": "t", "title": "i"},
    ],
)
def test_fields_that_make_no_document_are_refused(tmp_path, fields):
    path = write_jsonl(tmp_path / "a.jsonl", [{"q": "x", "a": "x", "t": ["x"], "i": "x"}])
    with pytest.raises(ValueError, match=r"corpora\.corpus\.fields"):
        collect(path, fields=fields)


def test_missing_and_nameless_paths_are_errors(tmp_path):
    with pytest.raises(
        ValueError, match=r"nothing\.jsonl does not exist \(for a Hugging Face hub id set format"
    ):
        collect(tmp_path / "nothing.jsonl")
    with pytest.raises(ValueError, match="has no files to read"):
        collect(tmp_path)
    with pytest.raises(ValueError, match="has no files to read"):
        collect(tmp_path / "*.jsonl")
    (tmp_path / "data.bin").write_text('{"text": "a"}\n')
    with pytest.raises(ValueError, match=r"data\.bin does not tell its format .* set format"):
        collect(tmp_path / "data.bin")
    assert texts(tmp_path / "data.bin", format="jsonl") == ["a"]
    assert texts(tmp_path, format="jsonl") == ["a"]


# Sharing out


def test_parts_share_out_the_inputs(tmp_path):
    for number in range(7):
        write_jsonl(tmp_path / f"{number}.jsonl", [{"text": f"{number}-{i}"} for i in range(3)])
    whole = texts(tmp_path)
    parts = [texts(tmp_path, part=(i, 3)) for i in range(3)]
    assert Counter(itertools.chain(*parts)) == Counter(whole)
    assert [len(part) for part in parts] == [9, 6, 6]
    assert len(list_inputs(CorpusConfig(path=str(tmp_path)))) == 7
    assert texts(tmp_path, limit=5) == whole[:5]


def test_real_corpora(realdata):
    expected = {
        "medquad.jsonl.gz": (
            {"text": "answer", "title": "focus", "group": "url", "id": "id"},
            16407,
        ),
        "pubmedqa_labeled.jsonl.gz": ({"text": "contexts", "id": "pmid"}, 1000),
        "chatdoctor5k.json.gz": (
            {"prompt": "instruction", "input": "input", "response": "output"},
            5452,
        ),
        "general/alpaca_*.json.gz": (
            {"prompt": "instruction", "input": "input", "response": "output"},
            1999,
        ),
        "mqp.csv": ({"text": ["1", "2"], "group": "3"}, 3048),
        "general/c4.jsonl.gz": ({}, 300),
        "adaptllm/input-raw-texts": ({}, 12),
    }
    for path, (fields, count) in expected.items():
        documents, aside = collect(realdata / path, fields=fields)
        assert len(documents) == count, path
        assert not aside, path
