import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from data import loader
from data.config import MixtureConfig, StreamConfig
from data.loader import batches, fingerprint, held, heldout_batches, part
from data.mixture import Deal
from data.pack import Row
from data.plan import RunPlan, shuffled
from data.rows import shard_name, write_shard, write_stream
from data.stream import open_stream, open_streams

SEQ_LEN = 16
ROOT = Path(__file__).resolve().parents[2]


def row_of(stream: int, n: int, length: int = SEQ_LEN) -> Row:
    """A row that says whose it is: token 0 the stream, token 1 its place on disk."""
    tokens = np.zeros(SEQ_LEN, np.int32)
    tokens[:length] = 1000 * n + np.arange(length)
    tokens[:2] = stream, n
    segment_ids = np.zeros(SEQ_LEN, np.int32)
    segment_ids[:length] = 1 + (np.arange(length) >= length // 2)
    loss_mask = np.zeros(SEQ_LEN, bool)
    loss_mask[1:length] = (np.arange(1, length) + n) % 3 > 0
    return Row(tokens, segment_ids, loss_mask)


def make_stream(
    folder: Path, stream: int, num_rows: int, length: int = SEQ_LEN, num_shards: int = 3
) -> None:
    folder.mkdir(parents=True)
    bounds = [num_rows * s // num_shards for s in range(num_shards + 1)]
    for s, (a, b) in enumerate(itertools.pairwise(bounds)):
        write_shard(
            folder / shard_name(s, num_shards), (row_of(stream, n, length) for n in range(a, b))
        )
    facts = {
        "name": folder.name,
        "seq_len": SEQ_LEN,
        "tokens": num_rows * length,
        "supervised": num_rows * length // 2,
        "tokenizer": "words",
    }
    write_stream(folder, facts, np.diff(bounds).tolist(), {})


NUM_ROWS = {"reading": 23, "questions": 40, "general": 11}
LENGTHS = {"reading": 16, "questions": 5, "general": 12}


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    for k, name in enumerate(NUM_ROWS):
        make_stream(root / name, k, NUM_ROWS[name], LENGTHS[name])
    weights = {"reading": 2.0, "questions": ((0.0, 1.0), (0.5, 0.0), (1.0, 4.0)), "general": 1.0}
    return {name: StreamConfig(path=str(root / name), weight=weights[name]) for name in NUM_ROWS}


@pytest.fixture(scope="module")
def streams(configs):
    return open_streams(configs, seq_len=SEQ_LEN, tokenizer=None)


TOTAL = 240


@pytest.fixture(scope="module")
def deal(streams, configs):
    return Deal(streams, configs, MixtureConfig(schedule="piecewise"), TOTAL)


def one_device() -> Mesh:
    return Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "sequence"))


def run(streams, deal, batch_rows=8, start=0, stop=TOTAL, seed=7, prefetch=2):
    return batches(
        streams,
        deal,
        seed=seed,
        global_batch_rows=batch_rows,
        start_row=start,
        stop_row=stop,
        mesh=one_device(),
        spec=P("data", "sequence"),
        prefetch=prefetch,
    )


def joined(found) -> dict[str, np.ndarray]:
    """All rows of some batches, one after the other."""
    found = [jax.device_get(batch) for batch in found]
    return {key: np.concatenate([batch[key] for batch in found]) for key in found[0]}


@pytest.fixture(scope="module")
def whole(streams, deal):
    return joined(run(streams, deal))


def expected_rows(streams, deal, seed, start, stop):
    """The rows of a run by their definition, one at a time."""
    given_by, positions = deal.rows(start, stop)
    for k, position in zip(given_by, positions, strict=True):
        yield (
            k,
            row_of(
                k, shuffled(streams[k], seed, np.array([position]))[0], LENGTHS[streams[k].name]
            ),
        )


def test_batches_hold_the_rows_of_the_run_in_order(streams, deal, whole):
    assert {key: (value.dtype, value.shape) for key, value in whole.items()} == {
        "tokens": (np.int32, (TOTAL, SEQ_LEN)),
        "segment_ids": (np.int32, (TOTAL, SEQ_LEN)),
        "loss_mask": (np.bool_, (TOTAL, SEQ_LEN)),
        "stream": (np.int32, (TOTAL,)),
    }
    for n, (k, row) in enumerate(expected_rows(streams, deal, 7, 0, TOTAL)):
        assert whole["stream"][n] == k
        for key in ("tokens", "segment_ids", "loss_mask"):
            np.testing.assert_array_equal(whole[key][n], getattr(row, key))


def test_an_epoch_of_a_stream_has_every_row_once_and_each_epoch_another_order(streams):
    for stream in streams:
        n = stream.num_rows
        epochs = [shuffled(stream, 3, np.arange(e * n, (e + 1) * n)) for e in range(5)]
        for epoch in epochs:
            np.testing.assert_array_equal(np.sort(epoch), np.arange(n))
        assert len({tuple(epoch) for epoch in epochs}) == 5
        assert tuple(epochs[0]) != tuple(range(n))
        assert tuple(shuffled(stream, 4, np.arange(n))) != tuple(epochs[0])


def test_over_a_run_no_row_comes_again_before_its_epoch_is_through(streams, whole):
    for k, stream in enumerate(streams):
        on_disk = whole["tokens"][whole["stream"] == k][:, 1]
        assert len(on_disk) > 2 * stream.num_rows
        for start in range(0, len(on_disk), stream.num_rows):
            epoch = on_disk[start : start + stream.num_rows]
            assert len(set(epoch.tolist())) == len(epoch)


def test_the_shuffle_spreads_rows_evenly(streams):
    stream = streams[2]
    n = stream.num_rows
    firsts = [shuffled(stream, seed, np.arange(1))[0] for seed in range(1100)]
    counts = np.bincount(firsts, minlength=n)
    assert ((counts - 100.0) ** 2 / 100).sum() < 35  # chi-squared with 10 degrees: once in 10,000


def test_streams_and_seeds_have_orders_of_their_own(configs):
    one, other = (
        open_stream("one", configs["reading"].path),
        open_stream("other", configs["reading"].path),
    )
    assert tuple(shuffled(one, 7, np.arange(23))) != tuple(shuffled(other, 7, np.arange(23)))


@pytest.mark.parametrize(("start", "batch_rows"), [(0, 24), (8, 4), (37, 7), (239, 1), (160, 80)])
def test_a_run_goes_on_at_any_row_with_another_batch_size(
    streams, deal, whole, start, batch_rows, monkeypatch
):
    monkeypatch.setattr(
        loader, "READ_ROWS", 30
    )  # so that a run is several reads, the last one short
    found = joined(run(streams, deal, batch_rows, start))
    for key, value in found.items():
        np.testing.assert_array_equal(value, whole[key][start:])


GRIDS = {  # of 8 devices as (data, tensor, sequence), and how many share a host, in order of their numbers
    "one host": (np.arange(8).reshape(4, 1, 2), 8),
    "two hosts": (np.arange(8).reshape(4, 1, 2), 4),
    "four hosts": (np.arange(8).reshape(4, 1, 2), 2),
    "rows scattered over hosts": (np.arange(8).reshape(2, 4).T.reshape(8, 1, 1), 4),
    "tensor crosses two hosts": (np.arange(8).reshape(2, 4).T.reshape(4, 2, 1), 4),
    "sequence crosses two hosts": (np.arange(8).reshape(2, 4).T.reshape(4, 1, 2), 4),
    "sequence crosses four hosts": (np.arange(8).reshape(1, 1, 8), 2),
    "tensor and sequence cross four hosts": (np.arange(8).reshape(2, 2, 2).transpose(2, 0, 1), 2),
}


@pytest.mark.parametrize("name", GRIDS)
def test_hosts_build_what_their_devices_hold_of_the_same_batches(streams, deal, whole, name):
    numbers, per_host = GRIDS[name]
    shape = (16, SEQ_LEN)
    ways = {"data": numbers.shape[0], "sequence": numbers.shape[2]}
    plan = RunPlan(streams, deal, 7, 16, 32, 80)
    seen = np.zeros((3, *shape), int)
    for host in range(8 // per_host):
        indices = [
            index_of(place, ways, shape)
            for place, number in np.ndenumerate(numbers)
            if number // per_host == host
        ]
        rows, columns = held(indices, shape)
        # Nothing is read that no device of this host holds.
        mask = np.zeros(shape, bool)
        for index in indices:
            mask[index] = True
        assert set(rows.tolist()) == set(np.nonzero(mask.any(axis=1))[0].tolist())
        assert (columns.start, columns.stop) == tuple(
            np.nonzero(mask.any(axis=0))[0][[0, -1]] + [0, 1]
        )
        layout = loader._Layout(shape, None, None, rows, columns)
        source = loader._LocalBatches(plan, layout)
        groups = [source[group] for group in range(len(source))]
        for n, local in enumerate(itertools.chain.from_iterable(groups)):
            assert local["tokens"].shape == (len(rows), columns.stop - columns.start)
            for index in indices:
                for key, value in local.items():
                    wanted = whole[key][32 + 16 * n : 48 + 16 * n][index[: value.ndim]]
                    found = part(value, rows, columns, shape, index[: value.ndim])
                    np.testing.assert_array_equal(found, wanted)
                seen[n][index] += 1
    copies = numbers.shape[1]
    np.testing.assert_array_equal(seen, copies)


def index_of(place, ways, shape):
    """What the device at a place of a (data, tensor, sequence) grid holds of [B, T]."""
    rows, columns = shape[0] // ways["data"], shape[1] // ways["sequence"]
    d, _, s = place
    return (slice(d * rows, (d + 1) * rows), slice(s * columns, (s + 1) * columns))


@pytest.mark.slow
def test_two_processes_hold_the_batches_of_one(streams, configs, tmp_path):
    constant = {name: StreamConfig(path=config.path) for name, config in configs.items()}
    deal = Deal(streams, constant, MixtureConfig(), 64)
    whole = joined(run(streams, deal, 8, 0, 64))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {
        "num_processes": 2,
        "port": port,
        "streams": {name: config.path for name, config in configs.items()},
        "seq_len": SEQ_LEN,
        "total_rows": 64,
        "batch_rows": 8,
        "seed": 7,
        "out": str(tmp_path),
    }
    script = Path(__file__).with_name("loader_processes.py")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, script, json.dumps({**told, "process": n})],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(2)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
    seen = {}
    for n in range(2):
        for place, value in np.load(tmp_path / f"{n}.npz").items():
            mesh, batch, key, index = place.split("/")
            rows, *columns = (slice(*bounds) for bounds in json.loads(index))
            wanted = whole[key][8 * int(batch) : 8 * int(batch) + 8][(rows, *columns)]
            np.testing.assert_array_equal(value, wanted)
            seen.setdefault((mesh, key), {}).setdefault(place, set()).add(n)
    for (mesh, key), places in seen.items():
        covered = np.zeros((8, 8, SEQ_LEN) if key != "stream" else (8, 8), int)
        for place in places:
            _, batch, _, index = place.split("/")
            covered[(int(batch), *(slice(*bounds) for bounds in json.loads(index)))] += 1
        assert (covered == 1).all(), (mesh, key)
    # Where tensor crosses processes, both built the same rows.
    assert all(who == {0, 1} for who in seen["tensor", "tokens"].values())
    assert all(len(who) == 1 for who in seen["data", "tokens"].values())


# -- threads


def batch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "batches"]


def test_a_batch_iterator_closes_in_the_middle(streams, deal):
    found = run(streams, deal, batch_rows=2)
    next(found)
    assert batch_threads()
    found.close()
    assert not batch_threads()


def test_batches_are_made_ahead_and_no_further(streams, deal, monkeypatch):
    made = []
    arrays = loader._Layout.arrays
    monkeypatch.setattr(
        loader._Layout, "arrays", lambda self, local: made.append(1) or arrays(self, local)
    )
    found = run(streams, deal, batch_rows=2, prefetch=3)
    next(found)
    deadline = time.monotonic() + 20
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    assert len(made) == 5  # one taken, three waiting, one at the door
    found.close()


def test_an_error_in_the_threads_reaches_the_loop(configs, tmp_path):
    make_stream(tmp_path / "torn", 0, 30, num_shards=1)
    torn = {"torn": StreamConfig(path=str(tmp_path / "torn"))}
    streams = open_streams(torn, seq_len=SEQ_LEN, tokenizer=None)
    shard = tmp_path / "torn" / shard_name(0, 1)
    data = bytearray(shard.read_bytes())
    data[100:400] = bytes(300)
    shard.write_bytes(data)
    deal = Deal(streams, torn, MixtureConfig(), 60)
    with pytest.raises(ValueError, match=r"stream torn: .*torn cannot be read"):
        joined(run(streams, deal, 4, 0, 60))
    assert not batch_threads()


def test_a_run_that_is_over_gives_no_batch(streams, deal):
    assert list(run(streams, deal, start=TOTAL)) == []


# -- errors said at once


def test_rows_that_do_not_make_whole_batches_are_refused(streams, deal):
    with pytest.raises(ValueError, match="global_batch_rows: 7"):
        run(streams, deal, batch_rows=7)


def test_streams_in_another_order_than_the_deal_are_refused(streams, deal):
    with pytest.raises(ValueError, match="are not the deal's"):
        run(streams[::-1], deal)


def test_a_batch_that_the_mesh_cannot_split_is_refused():
    mesh = SimpleNamespace(shape={"data": 3, "sequence": 5})
    with pytest.raises(ValueError, match=r"rows: 8 does not divide by 3.*data"):
        loader._Layout.of(mesh, P("data", None), (8, SEQ_LEN))
    with pytest.raises(ValueError, match=r"seq_len: 16 does not divide by 5.*sequence"):
        loader._Layout.of(mesh, P(None, "sequence"), (8, SEQ_LEN))


# -- held-out rows and the fingerprint


def heldout(path, batch_rows, max_rows=None):
    return joined(
        heldout_batches(
            path,
            batch_rows=batch_rows,
            max_rows=max_rows,
            mesh=one_device(),
            spec=P("data", "sequence"),
        )
    )


def test_held_out_rows_come_in_order_and_the_last_batch_is_filled_up(configs, monkeypatch):
    monkeypatch.setattr(loader, "READ_ROWS", 20)
    found = heldout(configs["reading"].path, 10)
    assert found["tokens"].shape == (30, SEQ_LEN)
    np.testing.assert_array_equal(found["tokens"][:23, 1], np.arange(23))
    np.testing.assert_array_equal(found["segment_ids"][0], row_of(0, 0).segment_ids)
    for key in ("tokens", "segment_ids", "loss_mask", "stream"):
        assert not found[key][23:].any()


def test_fewer_held_out_rows_are_spread_over_the_stream(configs):
    found = heldout(configs["questions"].path, 4, max_rows=8)
    np.testing.assert_array_equal(found["tokens"][:, 1], np.arange(8) * 5)
    assert heldout(configs["questions"].path, 4, max_rows=1000)["tokens"].shape[0] == 40


def test_a_missing_held_out_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        heldout(str(tmp_path / "none"), 4)


def test_the_fingerprint_survives_json_and_follows_the_rows(streams, tmp_path):
    told = fingerprint(streams)
    assert json.loads(json.dumps(told)) == told
    assert list(told) == list(NUM_ROWS)
    make_stream(tmp_path / "reading", 0, 24)
    other = fingerprint([open_stream("reading", str(tmp_path / "reading"))])
    assert other["reading"] != told["reading"]
