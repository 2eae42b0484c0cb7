"""The sample corpus keeps the properties that recipes and other tests rely on."""

import itertools
import json
import re
import unicodedata
from pathlib import Path

import pytest

from data.config import CorpusConfig, FieldsConfig
from data.sources import read

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample"
CONNECTIVE = re.compile(
    r"\b(therefore|however|in contrast|moreover|for this reason|because of|due to|in other words"
    r"|that is,|is defined as|consequently|in addition|for example)",
    re.IGNORECASE,
)


def _rows(name: str) -> list[dict[str, str]]:
    # Split on "\n" alone: str.splitlines would also break at separators inside a string.
    lines = (SAMPLE / name).read_bytes().decode("utf-8").split("\n")
    assert lines[-1] == "", f"{name} must end with a newline"
    return [json.loads(line) for line in lines[:-1]]


@pytest.fixture(scope="module")
def passages() -> list[dict[str, str]]:
    return _rows("biomedicine.jsonl")


@pytest.fixture(scope="module")
def pairs() -> list[dict[str, str]]:
    return _rows("instructions.jsonl")


def _trigrams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return set(zip(words, words[1:], words[2:], strict=False))


def _closest(texts: list[str]) -> tuple[float, int, int]:
    grams = [_trigrams(text) for text in texts]
    return max(
        (len(grams[i] & grams[j]) / max(len(grams[i] | grams[j]), 1), i, j)
        for i, j in itertools.combinations(range(len(grams)), 2)
    )


def test_passages_have_the_expected_fields_and_lengths(passages: list[dict[str, str]]) -> None:
    assert len(passages) >= 90
    for row in passages:
        assert set(row) == {"id", "title", "text", "topic"}, row["id"]
        assert all(isinstance(value, str) and value.strip() for value in row.values()), row["id"]
        assert 100 <= len(row["text"].split()) <= 250, row["id"]


def test_pairs_have_the_expected_fields_and_lengths(pairs: list[dict[str, str]]) -> None:
    assert len(pairs) >= 90
    for row in pairs:
        assert set(row) == {"id", "instruction", "input", "output"}, row["id"]
        assert all(isinstance(value, str) for value in row.values()), row["id"]
        assert row["instruction"].strip(), row["id"]
        assert row["output"].strip(), row["id"]
        assert len(row["output"].split()) <= 150, row["id"]
    usual = sum(len(row["output"].split()) >= 20 for row in pairs)
    assert usual >= 0.8 * len(pairs)
    assert 20 <= sum(bool(row["input"]) for row in pairs) <= 80


def test_ids_titles_and_texts_are_unique(
    passages: list[dict[str, str]], pairs: list[dict[str, str]]
) -> None:
    for rows, field in [
        (passages, "id"),
        (passages, "title"),
        (passages, "text"),
        (pairs, "id"),
        (pairs, "output"),
    ]:
        values = [row[field] for row in rows]
        assert len(set(values)) == len(values), field
    prompts = [(row["instruction"], row["input"]) for row in pairs]
    assert len(set(prompts)) == len(prompts)


def test_no_two_texts_are_near_duplicates(
    passages: list[dict[str, str]], pairs: list[dict[str, str]]
) -> None:
    for rows, field in [(passages, "text"), (pairs, "output")]:
        overlap, i, j = _closest([row[field] for row in rows])
        assert overlap < 0.5, (rows[i]["id"], rows[j]["id"], overlap)


def test_passages_offer_connectives_definitions_and_paragraphs(
    passages: list[dict[str, str]],
) -> None:
    texts = [row["text"] for row in passages]
    with_connective = sum(CONNECTIVE.search(text) is not None for text in texts)
    assert with_connective >= 0.6 * len(texts)
    assert sum("defined as" in text for text in texts) >= 15
    assert sum("\n\n" in text for text in texts) >= 20
    assert sum(text.startswith("Background: ") for text in texts) >= 3
    assert len({row["topic"] for row in passages}) >= 20


def test_text_is_clean(passages: list[dict[str, str]], pairs: list[dict[str, str]]) -> None:
    for row in [*passages, *pairs]:
        for field, value in row.items():
            where = (row["id"], field)
            assert value == value.strip(), where
            assert value == unicodedata.normalize("NFC", value), where
            controls = {c for c in value if unicodedata.category(c)[0] == "C"} - {"\n"}
            assert not controls, (where, controls)
            # Runs of spaces may only indent a line, as program text does in a few pairs.
            assert not re.search(r"\S {2,}|[ ]+\n", value), where
            assert "\ufffd" not in value, where
    for row in passages:
        assert "  " not in row["text"], row["id"]
        # Paragraphs are separated by exactly one blank line; lines are not wrapped.
        assert not re.search(r"(?<!\n)\n(?!\n)|\n{3}", row["text"]), row["id"]


FIELDS = {
    "law.jsonl": {"text": "opinions.sections", "title": "case_name", "id": "id"},
    "finance.jsonl": {"text": "text", "title": "title", "id": "id"},
}


@pytest.mark.parametrize("name", FIELDS)
def test_law_and_finance_offer_what_is_mined_and_are_clean(name: str) -> None:
    corpus = CorpusConfig(path=str(SAMPLE / name), fields=FieldsConfig.model_validate(FIELDS[name]))
    documents = list(read(corpus, "sample", set_aside=pytest.fail))
    texts = [document.turns[0].text for document in documents]
    assert len({document.meta["source_id"] for document in documents}) == len(texts) >= 7
    words = sum(len(text.split()) for text in texts)
    assert 2000 <= words <= 6000
    assert (SAMPLE / name).stat().st_size < 40_000
    assert all(CONNECTIVE.search(text) for text in texts if len(text.split()) > 200)
    defined = re.compile(r"\b(is|are) (defined as|the|a|an)\b")
    assert sum(defined.search(text) is not None for text in texts) >= 0.8 * len(texts)
    assert all(re.search(r"\d", text) for text in texts)
    assert _closest(texts)[0] < 0.3
    for text in texts:
        assert text == unicodedata.normalize("NFC", text)
        assert not re.search(r" {2}| \n|\n{3}", text)


def test_opinions_keep_the_titles_of_their_sections() -> None:
    rows = _rows("law.jsonl")
    corpus = CorpusConfig(
        path=str(SAMPLE / "law.jsonl"), fields=FieldsConfig.model_validate(FIELDS["law.jsonl"])
    )
    for row, document in zip(rows, read(corpus, "sample", set_aside=pytest.fail), strict=True):
        lines = document.turns[0].text.split("\n")
        assert lines[0] == row["case_name"]
        titles = [s["title"] for opinion in row["opinions"] for s in opinion["sections"]]
        assert len(titles) >= 4
        assert [line for line in lines if line in titles] == titles
