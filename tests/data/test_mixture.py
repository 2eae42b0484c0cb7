import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.config import MixtureConfig, StreamConfig
from data.mixture import Deal
from data.pack import Row
from data.rows import write_shard, write_stream
from data.stream import Stream, open_stream, open_streams

SEQ_LEN = 1000


def stream(name: str, num_rows: int, fill: float = 1.0) -> Stream:
    tokens = round(num_rows * SEQ_LEN * fill)
    info = {"num_rows": num_rows, "tokens": tokens, "supervised": tokens // 2, "seq_len": SEQ_LEN}
    return Stream(name, "nowhere", info)


def deal_of(weights, total_rows, fills=None, schedule="constant", num_rows=997, **kwargs) -> Deal:
    fills = fills or [1.0] * len(weights)
    streams = [stream(f"s{k}", num_rows, fill) for k, fill in enumerate(fills)]
    configs = {
        f"s{k}": StreamConfig(path="nowhere", weight=weight) for k, weight in enumerate(weights)
    }
    return Deal(streams, configs, MixtureConfig(schedule=schedule), total_rows, **kwargs)


def counts_at_every_row(deal: Deal) -> np.ndarray:
    """Rows given after 0, 1, ... rows, (N + 1, K), from the dealt rows alone."""
    given_by, _ = deal.rows(deal.start_row, deal.total_rows)
    one_hot = np.eye(len(deal.names), dtype=np.int64)[given_by]
    return deal.start_counts + np.concatenate([one_hot[:1] * 0, np.cumsum(one_hot, axis=0)])


def weights_at(points, progress: np.ndarray) -> np.ndarray:
    if not isinstance(points, tuple):
        return np.full(len(progress), float(points))
    return np.interp(progress, *zip(*points, strict=True))


def integral_by_sums(weights, fills, total_rows: int, cuts: int = 64) -> np.ndarray:
    """∫₀ⁿ of the row weights for n = 0 ... N, (N + 1, K), by the midpoint rule on many small steps."""
    progress = (np.arange(total_rows * cuts) + 0.5) / (total_rows * cuts)
    row_weights = np.array(
        [weights_at(w, progress) / f for w, f in zip(weights, fills, strict=True)]
    )
    row_weights /= row_weights.sum(axis=0)
    per_row = row_weights.reshape(len(weights), total_rows, cuts).mean(axis=2).T
    return np.concatenate([per_row[:1] * 0, np.cumsum(per_row, axis=0)])


number = st.one_of(st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 1.0, 2.0]), st.floats(0.001, 50))
points = st.lists(st.tuples(st.integers(0, 20), number), min_size=1, max_size=5).map(
    lambda line: tuple((p / 20, w) for p, w in sorted(dict(line).items()))
)
fill = st.floats(0.05, 1.0)


@settings(max_examples=150, deadline=None)
@given(
    first=st.floats(0.01, 10),
    rest=st.lists(st.tuples(st.one_of(number, points), fill), max_size=11),
    total_rows=st.integers(1, 1500),
)
def test_every_stream_stays_within_a_row_of_its_integral_at_every_row(first, rest, total_rows):
    weights = [first, *(w for w, _ in rest)]
    fills = [0.5, *(f for _, f in rest)]
    deal = deal_of(weights, total_rows, fills, schedule="piecewise", num_rows=10**6)
    fills = [s.tokens_per_row / SEQ_LEN for s in deal._streams]
    counts = counts_at_every_row(deal)
    np.testing.assert_array_equal(counts.sum(axis=1), np.arange(total_rows + 1))
    planned = np.array([deal.planned(n) for n in range(total_rows + 1)])
    assert np.abs(counts - planned).max() < 1
    # Between points shares are monotone, and cut into straight pieces of less than two rows: a piece
    # is off by half its length times its change at most (much, next to tiny weights), a level one by none.
    wanted = integral_by_sums(weights, fills, total_rows)
    at = np.array(sorted({0.0, 1.0}.union(*(dict(w) for w in weights if isinstance(w, tuple)))))
    shares = np.array([weights_at(w, at) / f for w, f in zip(weights, fills, strict=True)])
    shares /= shares.sum(axis=0)
    change = np.abs(np.diff(shares)).sum(axis=1)
    assert (np.abs(planned - wanted) <= 1.02 * change + 1e-6).all()
    for row in {0, total_rows // 3, total_rows}:
        np.testing.assert_array_equal(deal.counts(row), counts[row])


@pytest.mark.parametrize("num_streams", [1, 2, 3, 7, 12, 256])
def test_the_bound_holds_over_many_blocks_of_the_table(num_streams):
    rng = np.random.default_rng(num_streams)
    weights = list(rng.choice([1, 1, 2, 3, 10, 100], num_streams) * rng.random(num_streams))
    deal = deal_of(weights, 150_000)
    counts = counts_at_every_row(deal)
    n = np.arange(len(counts))[:, None]
    assert np.abs(counts - n * (np.array(weights) / sum(weights))).max() < 1
    for row in (65_535, 65_536, 65_537, 131_072, 139_265, 150_000):
        np.testing.assert_array_equal(deal.counts(row), counts[row])


def test_streams_of_equal_weight_keep_the_bound_where_nearest_midpoints_break_it():
    shares = np.array([0.02] * 5 + [0.9])
    integral = np.arange(2001)[:, None] * shares
    midpoints = [((j + 0.5) / w, k) for k, w in enumerate(shares) for j in range(2000)]
    nearest = np.array([k for _, k in sorted(midpoints)[:2000]])
    assert np.abs(np.cumsum(np.eye(6)[nearest], axis=0) - integral[1:]).max() > 1
    assert np.abs(counts_at_every_row(deal_of(list(shares), 2000)) - integral).max() < 1


def test_a_stream_gives_its_rows_in_order_without_gap_or_repeat():
    deal = deal_of([3, ((0.0, 0.0), (1.0, 2.0)), 1.5], 5000, schedule="piecewise")
    given_by, positions = deal.rows(0, 5000)
    for k in range(3):
        own = positions[given_by == k]
        np.testing.assert_array_equal(own, np.arange(len(own)))


@settings(max_examples=60, deadline=None)
@given(start=st.integers(0, 140_000), length=st.integers(0, 20_000))
def test_any_range_of_rows_is_the_same_whatever_was_asked_before(start, length):
    weights, total = [1, 2, ((0.0, 3.0), (1.0, 0.5))], 160_000
    fresh = deal_of(weights, total, schedule="piecewise").rows(start, start + length)
    whole = WHOLE.rows(0, total)
    for got, expected in zip(fresh, whole, strict=True):
        np.testing.assert_array_equal(got, expected[start : start + length])


WHOLE = deal_of([1, 2, ((0.0, 3.0), (1.0, 0.5))], 160_000, schedule="piecewise")


def test_a_longer_run_of_constant_weights_begins_with_the_same_rows():
    short, long = deal_of([0.1, 0.7, 1.3], 1000), deal_of([0.1, 0.7, 1.3], 70_000)
    np.testing.assert_array_equal(short.rows(0, 1000)[0], long.rows(0, 1000)[0])


def test_token_shares_are_exact_when_streams_are_filled_differently():
    weights, fills = [2, 1, 1], [0.3, 0.99, 0.7]
    for total in (37, 1000, 20_000):
        deal = deal_of(weights, total, fills, num_rows=1000)
        tokens_per_row = np.array(fills) * SEQ_LEN
        rows = deal.counts(total)
        ideal = np.array(weights) / tokens_per_row
        ideal = ideal / ideal.sum() * total
        assert np.abs(rows - ideal).max() < 1
        tokens = rows * tokens_per_row
        # Each count is off by less than a row: so are the tokens, and their sum by less than a row of each.
        off = np.abs(tokens - np.array([0.5, 0.25, 0.25]) * tokens.sum())
        assert (off < tokens_per_row + np.array([0.5, 0.25, 0.25]) * tokens_per_row.sum()).all()
    assert abs(tokens[0] / tokens.sum() - 0.5) < 1e-4


def test_tokens_follow_piecewise_weights_over_the_run():
    weights, fills, total = [((0.0, 3.0), (0.6, 3.0), (1.0, 1.0)), 1.0], [0.3, 0.9], 40_000
    deal = deal_of(weights, total, fills, schedule="piecewise", num_rows=1000)
    tokens_per_row = np.array(fills) * SEQ_LEN
    for progress in (0.1, 0.5, 0.7, 0.9):
        a, b = int((progress - 0.02) * total), int((progress + 0.02) * total)
        tokens = (deal.counts(b) - deal.counts(a)) * tokens_per_row
        wanted = weights_at(weights[0], np.array([progress]))[0]
        assert tokens[0] / tokens[1] == pytest.approx(wanted, rel=0.01)


def test_zero_weight_over_part_of_the_run_gives_no_rows_there():
    weights = [1.0, ((0.5, 0.0), (0.51, 1.0)), 0.0]
    deal = deal_of(weights, 10_000, schedule="piecewise")
    counts = counts_at_every_row(deal)
    assert counts[5000, 1] == 0
    assert counts[10_000, 1] > 2400
    assert counts[-1, 2] == 0


def test_priority_decay_gives_the_published_mixture():
    # HuatuoGPT-II: rows, priority, epochs; shares at progress as computed from its sampling.
    rows = [640_621, 394_490, 177_261, 878_241, 411_183, 147_059, 1_835_931, 801_522, 142_248]
    priority = [32, 32, 16, 16, 8, 8, 4, 4, 1]
    published = {
        0.0: [0.313, 0.193, 0.043, 0.215, 0.050, 0.018, 0.112, 0.049, 0.007],
        0.2: [0.242, 0.149, 0.047, 0.235, 0.065, 0.023, 0.159, 0.069, 0.010],
        0.5: [0.077, 0.048, 0.043, 0.214, 0.101, 0.036, 0.318, 0.139, 0.024],
        0.8: [0, 0, 0.005, 0.026, 0.072, 0.026, 0.550, 0.240, 0.080],
        0.95: [0, 0, 0, 0, 0.008, 0.003, 0.466, 0.203, 0.321],
    }
    streams = [stream(f"s{k}", n, 0.2 + 0.08 * k) for k, n in enumerate(rows)]
    configs = {
        f"s{k}": StreamConfig(path="nowhere", priority=p, epochs=3 if p == 1 else None)
        for k, p in enumerate(priority)
    }
    total = 57_130  # a hundredth of the pool
    deal = Deal(streams, configs, MixtureConfig(schedule="priority"), total)
    for progress, shares in published.items():
        a = min(max(round(progress * total) - 25, 0), total - 50)
        given_by = deal.planned(a + 50) - deal.planned(a)
        np.testing.assert_allclose(given_by / 50, shares, atol=0.002)
    counts = counts_at_every_row(deal)
    for row in range(0, total + 1, 97):
        assert np.abs(counts[row] - deal.planned(row)).max() < 1
    # Over the whole run every stream gives its rows times its epochs.
    pool = np.array([*rows[:8], 3 * rows[8]])
    assert np.abs(counts[-1] - pool / pool.sum() * total).max() < 1
    assert deal.summary()[8]["epochs"] == pytest.approx(3 / 100, rel=0.01)


def test_priority_decay_agrees_with_drawing_without_replacement():
    rows, priority = np.array([3000, 6000, 1000]), np.array([8.0, 2.0, 1.0])
    rng = np.random.default_rng(1)
    owner = np.repeat(np.arange(3), rows)
    keys = rng.exponential(size=(20, len(owner))) / priority[owner]
    drawn = owner[np.argsort(keys, axis=1)]  # 20 draws of the whole pool
    streams = [stream(f"s{k}", int(n)) for k, n in enumerate(rows)]
    configs = {f"s{k}": StreamConfig(path="nowhere", priority=p) for k, p in enumerate(priority)}
    deal = Deal(streams, configs, MixtureConfig(schedule="priority"), 10_000)
    for row in range(500, 10_001, 500):
        mean = np.array([(drawn[:, :row] == k).sum(axis=1).mean() for k in range(3)])
        np.testing.assert_allclose(deal.planned(row), mean, atol=5 * np.sqrt(10_000 / 4 / 20))


def test_a_changed_mixture_goes_on_from_the_counts_reached():
    before = deal_of([1, 1, 2], 1000)
    reached = before.counts(400)
    after = deal_of([5, 1, 1, 3], 1000, start_row=400, start_counts=[*reached, 0])
    given_by, positions = after.rows(400, 1000)
    for k, start in enumerate([*reached, 0]):
        own = positions[given_by == k]
        np.testing.assert_array_equal(own, start + np.arange(len(own)))
    counts = counts_at_every_row(after)
    planned = np.array([after.planned(n) for n in range(400, 1001)])
    assert np.abs(counts - planned).max() < 1
    np.testing.assert_allclose(planned[-1] - planned[0], 600 * np.array([0.5, 0.1, 0.1, 0.3]))
    with pytest.raises(ValueError, match="400 to 1000"):
        after.rows(399, 500)


def test_summary_says_what_the_run_takes():
    deal = deal_of([1, 1], 300, [0.25, 0.5], num_rows=100)
    first, second = deal.summary()
    assert first == {
        "name": "s0",
        "rows": 200,
        "tokens": 50_000,
        "supervised": 25_000,
        "padding": 150_000,
        "epochs": 2.0,
        "share": 0.5,
    }
    assert second["rows"] == 100
    assert second["tokens"] == 50_000


def test_a_run_without_rows_has_a_summary():
    deal = deal_of([1, ((0.0, 1.0), (1.0, 2.0))], 0, schedule="piecewise")
    assert [line["rows"] for line in deal.summary()] == [0, 0]


@pytest.mark.parametrize(
    ("weights", "schedule", "message"),
    [
        ([((0.0, 1.0), (1.0, 2.0)), 1], "constant", r"streams\.s0\.weight: .*piecewise"),
        ([0, 0], "constant", "every weight is 0 at progress 0"),
        ([((0.0, 1.0), (0.5, 0.0)), 0], "piecewise", "every weight is 0 at progress 0.5"),
        ([((0.5, 1.0), (0.5, 2.0)), 1], "piecewise", r"streams\.s0\.weight: .*rise"),
        ([1, 1], "priority", r"streams\.s0\.priority: missing"),
    ],
)
def test_schedules_that_cannot_be_are_named(weights, schedule, message):
    with pytest.raises(ValueError, match=message):
        deal_of(weights, 100, schedule=schedule)


def test_a_start_without_counts_is_refused():
    with pytest.raises(ValueError, match="start_counts"):
        deal_of([1, 1], 100, start_row=10)
    with pytest.raises(ValueError, match="start_counts"):
        deal_of([1, 1], 100, start_row=10, start_counts=[10])


# -- opening streams


class Words:
    path = "words.model"
    fingerprint = "words"


@pytest.fixture
def folder(tmp_path):
    rows = [
        Row(np.arange(8, dtype=np.int32), np.ones(8, np.int32), np.ones(8, bool)) for _ in range(5)
    ]
    for shard, part in enumerate((rows[:3], rows[3:])):
        write_shard(tmp_path / f"rows-train.array_record-{shard:05d}-of-00002", part)
    facts = {"name": "x", "seq_len": 8, "tokens": 40, "supervised": 40, "tokenizer": "words"}
    write_stream(tmp_path, facts, [3, 2], {})
    return tmp_path


def opened(folder, seq_len=8, tokenizer=Words):
    configs = {"reading": StreamConfig(path=str(folder))}
    return open_streams(configs, seq_len=seq_len, tokenizer=tokenizer)


def test_a_finished_stream_opens(folder):
    (found,) = opened(folder)
    assert (found.name, found.num_rows, found.tokens_per_row) == ("reading", 5, 8.0)
    assert open_stream("reading", str(folder)) == found


def rewrite(folder, **changes):
    info = json.loads((folder / "stream.json").read_text())
    (folder / "stream.json").write_text(json.dumps(info | changes))


SHARD = "rows-train.array_record-00001-of-00002"


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "stream.json").unlink(), "unfinished.*stream.json"),
        (lambda f: (f / "dataset_info.json").unlink(), "unfinished.*dataset_info.json"),
        (lambda f: (f / "stream.json").write_text("{"), "not JSON"),
        (lambda f: rewrite(f, seq_len=16), "rows of 16 tokens, train.seq_len is 8"),
        (lambda f: rewrite(f, tokenizer="other"), "tokenizer other.*words.model"),
        (lambda f: rewrite(f, num_rows=0, shards=[]), "0 rows"),
        (lambda f: rewrite(f, num_rows=4), "num_rows is 4"),
        (lambda f: (f / SHARD).unlink(), f"{SHARD} is missing"),
        (lambda f: (f / SHARD).write_bytes(b"short"), f"{SHARD} has 5 bytes"),
        (lambda f: f.rename(f.parent / "moved"), "does not exist"),
    ],
)
def test_a_stream_that_cannot_be_used_says_which_and_why(folder, harm, message):
    harm(folder)
    with pytest.raises(ValueError, match=message) as error:
        opened(folder)
    assert "stream reading" in str(error.value)
    assert str(folder) in str(error.value)
