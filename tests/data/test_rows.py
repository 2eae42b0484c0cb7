"""The packed stream's format: TFDS reads what we write, and the bytes never vary."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from data import rows as rows_lib
from data.pack import Row

ROOT = Path(__file__).resolve().parents[2]


def make_row(tokens: np.ndarray, segment_ids: np.ndarray, loss_mask: np.ndarray) -> Row:
    return Row(tokens.astype(np.int32), segment_ids.astype(np.int32), loss_mask)


@settings(max_examples=100, deadline=None)
@given(
    tokens=hnp.arrays(np.int32, 16, elements=st.integers(0, 2**31 - 1)),
    segment_ids=hnp.arrays(np.int32, 16, elements=st.integers(0, 300)),
    loss_mask=hnp.arrays(np.bool_, 16),
)
def test_a_row_is_the_example_that_tfds_makes(tokens, segment_ids, loss_mask):
    from tensorflow_datasets.core import example_parser, example_serializer

    row = make_row(tokens, segment_ids, loss_mask)
    features = rows_lib.features(16)
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    theirs = serializer.get_tf_example(features.encode_example(vars(row)))
    ours = rows_lib.serialize(row)
    assert ours == theirs.SerializeToString(deterministic=True)
    assert type(theirs).FromString(ours) == theirs
    parsed = example_parser.ExampleParserNp(features.get_tensor_info()).parse_example(ours)
    np.testing.assert_array_equal(parsed["tokens"], tokens)


def sample(n: int, seq_len: int = 32) -> list[Row]:
    rng = np.random.default_rng(0)
    return [
        make_row(
            rng.integers(0, 32000, seq_len),
            np.sort(rng.integers(0, 5, seq_len)),
            rng.random(seq_len) < 0.5,
        )
        for _ in range(n)
    ]


STREAM = {
    "name": "s", "seq_len": 32, "tokens": 1, "supervised": 1, "documents": 1,
    "tokenizer": "t", "vocab_size": 32000, "add_bos": True, "add_eos": True,
}  # fmt: skip


def test_a_written_stream_reads_back_without_tensorflow(tmp_path):
    rows = sample(5)
    lengths = [
        rows_lib.write_shard(tmp_path / rows_lib.shard_name(i, 3), part)
        for i, part in enumerate((rows[:3], [], rows[3:]))
    ]
    assert lengths == [3, 0, 2]
    info = rows_lib.write_stream(tmp_path, STREAM, lengths, {"documents_in": 1})
    assert info["num_rows"] == 5
    assert [s["rows"] for s in info["shards"]] == [3, 0, 2]
    assert rows_lib.read_stream(tmp_path) == info
    code = (
        "import sys, tensorflow_datasets as tfds, numpy as np\n"
        f"source = tfds.builder_from_directory({str(tmp_path)!r}).as_data_source('train')\n"
        "assert len(source) == 5\n"
        "row = source.__getitems__([3])[0]\n"
        "assert row['tokens'].dtype == np.int32 and row['loss_mask'].dtype == bool\n"
        "assert 'tensorflow' not in sys.modules\n"
        "print(row['tokens'].tolist())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == str(rows[3].tokens.tolist())
    for row, back in zip(rows, rows_lib.read_rows(tmp_path), strict=True):
        for name in vars(row):
            np.testing.assert_array_equal(getattr(row, name), getattr(back, name))


def test_bytes_do_not_follow_the_hash_seed(tmp_path):
    code = (
        "import sys, numpy as np\n"
        "from data import rows\nfrom data.pack import Row\n"
        "row = Row(np.arange(32, dtype=np.int32), np.ones(32, np.int32), np.ones(32, bool))\n"
        f"rows.write_shard(sys.argv[1] + '/' + rows.shard_name(0, 1), [row] * 7)\n"
        f"rows.write_stream(sys.argv[1], {STREAM!r}, [7], {{}})\n"
    )
    digests = set()
    for seed in ("0", "1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", code, str(folder)], check=True, env=env, cwd=ROOT)
        files = sorted(folder.iterdir())
        assert [f.name for f in files] == [
            "dataset_info.json",
            "features.json",
            rows_lib.shard_name(0, 1),
            "stream.json",
        ]
        digests.add(tuple(hashlib.sha256(f.read_bytes()).hexdigest() for f in files))
    assert len(digests) == 1


def test_the_fingerprint_covers_shards_and_card(tmp_path):
    rows_lib.write_shard(tmp_path / rows_lib.shard_name(0, 1), sample(2))
    info = rows_lib.write_stream(tmp_path, STREAM, [2], {"a": 1})
    assert info["fingerprint"] == rows_lib.fingerprint(info, {"a": 1})
    assert info["fingerprint"] != rows_lib.fingerprint(info, {"a": 2})
    assert info["fingerprint"] != rows_lib.fingerprint({**info, "tokenizer": "u"}, {"a": 1})
    shorter = {**info, "shards": [{**info["shards"][0], "bytes": 7}]}
    assert info["fingerprint"] != rows_lib.fingerprint(shorter, {"a": 1})


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    def half() -> None:
        with rows_lib.whole_file(tmp_path / "x") as local:
            local.write_text("half")
            assert not (tmp_path / "x").exists()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("remote", [False, True])
def test_what_a_killed_process_had_begun_is_removed(tmp_path, monkeypatch, remote):
    temporary, folder = tmp_path / "temporary", tmp_path / "folder"
    temporary.mkdir()
    monkeypatch.setattr(rows_lib.tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(rows_lib, "is_remote", lambda path: remote)
    folder.mkdir()
    for path in (folder / "begun", folder / "other/begun"):
        local = rows_lib.whole_file(path).__enter__()  # and no end
        local.write_text("half")
        assert (temporary in local.parents) == remote
    rows_lib.write_json(folder / "done", {})
    rows_lib.remove_partials(folder)
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert len(left) == 2
    assert "done" in left
    rows_lib.remove_partials(folder / "other")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["done"]
