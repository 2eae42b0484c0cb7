"""The page of a card says what the card says, with samples, and needs no other file."""

import json
import re

import pytest

from data import rows
from data.card_page import card_page, samples_of, write_card_page

CARD = {
    "name": "articles",
    "convert": "comprehension",
    "documents_in": 1000,
    "documents_kept": 900,
    "documents_out": 950,
    "bytes_in": 2_100_000,
    "tokens_in": 500_000,
    "tokens_out": 940_000,
    "supervised": 930_000,
    "partitions": 4,
    "seq_len": 2048,
    "rows": 460,
    "fill": 0.9978,
    "heldout": {"documents": 20, "rows": 9},
    "removed": {
        "dedup": {"near duplicate": 61, "exact duplicate": 9},
        "read": {"broken XML": 10},
    },
    "duplicates": 70,
    "lengths": [[64, 50], [512, 900]],
    "tasks": {"nli": 300, "keyword": 700},
    "labels": {"nli/entail": 200, "nli/contradict": 100, "keyword/keyword": 700},
    "contamination": {
        "pubmedqa": {"items": 500, "found": 3, "common": ["in the present study we <find>"]},
        "mqp": {"items": 100, "found": 0, "common": []},
    },
    "languages": {"en": 898, "<de>": 2},
    "licences": {"CC BY 4.0": 900},
    "fertility": {"tokens_per_word": 1.55},
    "layouts": {"both": 400, "title": 550},
    "chunks": 77,
}
LINES = [
    json.dumps(
        {
            "stage": stage,
            "reason": reason,
            "place": f"document {i}",
            "excerpt": f"<b>{stage}</b> {i}",
        }
    )
    for stage, reason in (("dedup", "near duplicate: of 3f"), ("dedup", "exact duplicate"))
    for i in range(9)
] + [json.dumps({"reason": "broken XML: mismatched tag", "place": "a.xml.gz:7", "excerpt": "<Pub"})]


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.split("</style>")[1]))


def test_every_count_of_the_card_is_on_the_page():
    text = text_of(card_page(CARD, samples_of(LINES)))
    for said in (
        "Corpus articles",
        "2.1 MB of text became 940,000 tokens (1.88 × the 500,000 read) in 460 rows of 2,048, 99.78 %",
        "1,000 documents read",
        "1,000 tasks, 1.05 a text",
        "keyword 700 70.0 %",
        "nli 300 30.0 % contradict 100, entail 200",
        "in the stream 900 (90.0 %)",
        "held out 20 (2.0 %)",
        "removed: dedup 70 (7.0 %)",
        "near duplicate: 61 (6.1 % of what was read)",
        "Items Found Common",
        "pubmedqa 500 3 1 in the present study we &lt;find&gt;",
        "mqp 100 0 0",
        "en 898 99.8 %",
        "CC BY 4.0 900",
        "tokens_per_word 1.55",
        "Layouts both 400 title 550",
        "Chunks 77",
    ):
        assert said in text, said


def test_the_histogram_has_a_column_for_every_power_of_two():
    page = card_page(CARD, {})
    columns = re.findall(r'title="(\d[^"]*) tokens: ([\d,]+)', page)
    assert columns == [
        ("64 to 127", "50"),
        ("128 to 255", "0"),
        ("256 to 511", "0"),
        ("512 to 1,023", "900"),
    ]


def test_samples_are_the_first_few_of_each_reason_and_are_escaped():
    samples = samples_of(LINES)
    assert {key: len(found) for key, found in samples.items()} == {
        ("dedup", "near duplicate"): 3,
        ("dedup", "exact duplicate"): 3,
        ("read", "broken XML"): 1,
    }
    page = card_page(CARD, samples)
    assert "&lt;b&gt;dedup&lt;/b&gt; 0" in page
    assert "<b>dedup" not in page
    assert "&lt;de&gt;" in page
    assert "near duplicate: of 3f · document 0" in page
    assert "broken XML: mismatched tag</p>" in page
    assert "a.xml.gz" not in page  # the page is the same however a corpus is cut into files
    assert "http" not in page
    assert "src=" not in page


OPTIONAL = ("tasks", "labels", "lengths", "languages", "contamination", "licences", "fertility")


@pytest.mark.parametrize("missing", [*OPTIONAL, "documents_kept", "duplicates", "tokens_in"])
def test_a_card_of_a_raw_corpus_may_lack_most_of_it(missing):
    card = {key: value for key, value in CARD.items() if key != missing}
    assert "940,000 tokens" in text_of(card_page(card, {}))


def test_a_card_of_nothing_is_a_page():
    empty = {key: type(value)() for key, value in CARD.items()} | {"name": "n", "convert": "raw"}
    assert "Removed Nothing." in text_of(card_page(empty, {}))


def test_a_null_number_of_tokens_read_is_left_out():
    assert "× the" not in card_page(CARD | {"tokens_in": None}, {})


def test_the_page_is_written_beside_the_card_and_is_the_same_each_time(tmp_path):
    rows.write_json(tmp_path / "card.json", CARD)
    rows.write_lines(tmp_path / "set_aside.jsonl.zst", LINES)
    write_card_page(tmp_path)
    first = (tmp_path / "card.html").read_bytes()
    assert b"exact duplicate: 9" in first
    write_card_page(tmp_path)
    assert (tmp_path / "card.html").read_bytes() == first
    (tmp_path / "set_aside.jsonl.zst").unlink()
    write_card_page(tmp_path)
    assert b"No sample." in (tmp_path / "card.html").read_bytes()
