"""Counts add up, and a card has the keys that others read."""

from hypothesis import given
from hypothesis import strategies as st

from data.card import add_counts, make_card, print_table
from data.config import CorpusConfig


def flat(counts, path=()):
    for key, value in counts.items():
        if isinstance(value, dict):
            yield from flat(value, (*path, key))
        else:
            yield (*path, key), value


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from("abc"), st.dictionaries(st.sampled_from("xy"), st.integers(0, 9))
        )
    )
)
def test_counts_add_key_by_key(parts):
    total: dict = {}
    for part in parts:
        add_counts(total, part)
    expected: dict = {}
    for part in parts:
        for path, value in flat(part):
            expected[path] = expected.get(path, 0) + value
    assert dict(flat(total)) == expected


PARTITIONS = [
    {"documents_in": 5, "documents_out": 4, "tokens_in": 900, "tokens_out": 900, "supervised": 880, "rows": 1,
     "removed": {"tokenize": {"no tokens": 1}}},
    {"documents_in": 3, "documents_out": 3, "tokens_in": 100, "tokens_out": 100, "supervised": 90, "rows": 1,
     "removed": {}},
]  # fmt: skip


def card() -> dict:
    return make_card(
        "articles",
        CorpusConfig(path="x"),
        seq_len=1000,
        read={"documents": 10, "bytes": 4000, "set_aside": {"not JSON": 2}},
        partitions=PARTITIONS,
        heldout={"documents": 2},
    )


def test_a_card_accounts_for_every_document():
    made = card()
    removed = sum(sum(reasons.values()) for reasons in made["removed"].values())
    assert (
        made["documents_in"] == 12 == made["documents_out"] + made["heldout"]["documents"] + removed
    )
    assert made["removed"] == {"read": {"not JSON": 2}, "tokenize": {"no tokens": 1}}
    assert (made["tokens_in"], made["tokens_out"], made["supervised"]) == (1000, 1000, 970)
    assert made["fill"] == 0.5
    for key in ("tasks", "contamination", "languages", "licences"):
        assert made[key] == {}


def test_making_a_card_leaves_the_counts_alone():
    before = repr(PARTITIONS)
    card()
    card()
    assert repr(PARTITIONS) == before


def test_the_table_cuts_no_number(capsys):
    made = card() | {"tokens_out": 123_456_789_012}
    print_table([made])
    said = capsys.readouterr().out
    assert "123,456,789,012" in said
    assert "50.00 %" in said
