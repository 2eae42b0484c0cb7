"""Rows with pairs to few-shot windows: the published bytes, the loss mask by hand, nothing lost unsaid."""

import itertools
import json
import random

import numpy as np
import pytest

from data import sources
from data.chat import encode_document, render
from data.config import ChatConfig, CorpusConfig, FieldsConfig
from data.document import Document, Turn, document_id
from data.synthesis.format import EOS, Example, Pair, parse, write_context, write_example
from data.synthesis.tuning import few_shot
from data.tally import Tally
from data.tokenizer import load_tokenizer
from tests.data import made_tokenizers as made

CHAT = ChatConfig(template="synthesizer", train_on="assistant")
ROW = {
    "context": "Aspirin reduces fever.\n\nIt is given orally.",
    "QA_list": [
        {"Q": "What does aspirin reduce?", "A": "Fever."},
        {"Q": "How is it given?\nOptions:\n- orally\n- never", "A": "orally"},
    ],
    "QA_type": "free-form",
    "rc_name": "made",
}


@pytest.fixture(scope="module", params=["sentencepiece", "llama2", "llama3"])
def tokenizer(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuning") / request.param
    if request.param == "sentencepiece":
        return load_tokenizer(str(made.sentencepiece_model(folder)))
    if request.param == "llama2":
        return load_tokenizer(str(made.llama2(folder, prefix="first")))
    return load_tokenizer(str(made.llama3(folder)))


def row(text: str, *pairs: tuple[str, str], dataset: str = "a") -> Document:
    turns = [Turn("system", text)]
    for question, answer in pairs:
        turns += [Turn("user", question), Turn("assistant", answer)]
    return Document(document_id(turns), tuple(turns), "test", {"dataset": dataset})


def example(document: Document) -> Example:
    text, *rest = (turn.text for turn in document.turns)
    return Example(text, tuple(map(Pair, rest[::2], rest[1::2])))


def shots(document: Document) -> list[Document]:
    starts = [i for i, turn in enumerate(document.turns) if turn.role == "system"]
    ends = [*starts[1:], len(document.turns)]
    return [
        Document("", document.turns[start:end], "", {})
        for start, end in zip(starts, ends, strict=True)
    ]


def length(document: Document, tokenizer) -> int:
    return len(encode_document(document, tokenizer, CHAT, add_bos=True, add_eos=True).tokens)


def test_a_row_of_the_collection_is_read_by_its_own_field_names(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW) + "\n")
    fields = FieldsConfig(system="context", turns="QA_list", dataset="rc_name")
    corpus = CorpusConfig(path=str(path), fields=fields)
    (document,) = sources.read(corpus, "tuning", set_aside=pytest.fail)
    assert document.meta["dataset"] == "made"
    assert [turn.role for turn in document.turns] == ["system", *["user", "assistant"] * 2]
    assert example(document) == Example(
        ROW["context"], tuple(Pair(pair["Q"], pair["A"]) for pair in ROW["QA_list"])
    )


def test_a_pair_without_an_answer_is_no_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW | {"QA_list": [{"Q": "Why?", "A": ""}]}) + "\n")
    fields = FieldsConfig(system="context", turns="QA_list")
    aside: list[sources.SetAside] = []
    corpus = CorpusConfig(path=str(path), fields=fields)
    assert not list(sources.read(corpus, "tuning", set_aside=aside.append))
    assert [item.kind for item in aside] == ["empty turn"]


def test_the_template_writes_the_published_bytes(tokenizer):
    one = row(ROW["context"], *((pair["Q"], pair["A"]) for pair in ROW["QA_list"]))
    two = row(" The heart  pumps blood.\n", ("What pumps?", "The heart."))
    both = Document("", (*one.turns, *two.turns), "", {})
    assert render(one.turns, CHAT, tokenizer) == write_example(example(one))
    assert render(both.turns, CHAT, tokenizer) == "".join(
        write_example(example(part)) for part in (one, two)
    )
    assert render(one.turns, CHAT, tokenizer) == (
        "<s> <CON> Aspirin reduces fever.\n\nIt is given orally. </CON>\n\n"
        "<QUE> What does aspirin reduce? <ANS> Fever. </END>\n\n"
        "<QUE> How is it given?\nOptions:\n- orally\n- never <ANS> orally </END></s>"
    )


def test_supervised_are_the_pairs_and_their_end_and_nothing_of_a_text(tokenizer):
    one = row(ROW["context"], ("What does aspirin reduce?", "Fever."), ("How?", "Orally."))
    both = Document("", (*one.turns, *row("The heart", ("Why?", "Because.")).turns), "", {})
    encoded = encode_document(both, tokenizer, CHAT, add_bos=True, add_eos=True)
    tokens, supervised = encoded.tokens, encoded.supervised
    bounds = np.flatnonzero(np.diff(supervised.astype(int)))
    spans = np.split(tokens, bounds + 1)
    assert len(spans) == 4
    assert not supervised[0]
    for text, learned, part in zip(spans[::2], spans[1::2], shots(both), strict=True):
        read = tokenizer.decode(learned.tolist())
        assert parse(read).pairs == example(part).pairs
        assert not parse(read).rejected
        # The blank line before the first pair may be one token with its mark, which is learned.
        shown = tokenizer.decode(text.tolist())
        assert write_context(part.turns[0].text).replace("<s>", "").strip() in shown
        if EOS in tokenizer.special_ids:
            assert np.flatnonzero(learned == tokenizer.eos_id).tolist() == [len(learned) - 1]


def test_windows_are_filled_with_rows_of_one_data_set_and_every_row_is_in_one(tokenizer):
    rng = random.Random(0)
    words = [
        "aspirin",
        "fever",
        "pain",
        "adults",
        "heart",
        "blood",
        "rest",
        "exercise",
        "daily",
        "given",
        "orally",
    ]
    rows = [
        row(
            " ".join(rng.choices(words, k=rng.randint(3, 40))),
            *[(f"What {i} is {rng.random()}?", "It is.") for i in range(rng.randint(1, 3))],
            dataset=rng.choice("ab"),
        )
        for _ in range(60)
    ]
    lengths = [length(document, tokenizer) for document in rows]
    seq_len = sorted(lengths)[50]  # so that some rows are too long
    tally = Tally("tuning")
    joined = list(few_shot(rows, tokenizer=tokenizer, chat=CHAT, seq_len=seq_len, tally=tally))
    # Without `</s>` as a token of its own a shot counts one more: what it may save by joining.
    slack = EOS not in tokenizer.special_ids
    fits = [d for d, n in zip(rows, lengths, strict=True) if n + slack <= seq_len]
    assert sorted(repr(part.turns) for document in joined for part in shots(document)) == sorted(
        repr(d.turns) for d in fits
    )
    for document in joined:
        assert length(document, tokenizer) <= seq_len
        of = {d.meta["dataset"] for d in rows for part in shots(document) if d.turns == part.turns}
        assert of == {document.meta["dataset"]}
        assert len(document.meta["parents"]) == len(shots(document))
    # A window is left only when the next row of its data set does not fit any more.
    for dataset in "ab":
        windows = [document for document in joined if document.meta["dataset"] == dataset]
        for window, behind in itertools.pairwise(windows):
            parts = [*shots(window), shots(behind)[0]]
            assert sum(length(part, tokenizer) + slack for part in parts) > seq_len
    removed = tally.counts["removed"]["tuning"]["longer than the window"]
    assert removed + sum(tally.counts["shots"].values()) == 60
    assert max(tally.counts["shots"].values()) > len(joined) / 2  # some windows hold several


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([Turn("user", "a"), Turn("assistant", "b")], "no text"),
        ([Turn("system", "a")], "no pairs"),
        (
            [Turn("system", "a"), Turn("user", "b"), Turn("user", "c")],
            "questions and answers do not alternate",
        ),
        (
            [Turn("system", "a"), Turn("user", "b <ANS>"), Turn("assistant", "c")],
            "a mark of the format stands in it",
        ),
    ],
)
def test_what_is_no_text_with_pairs_is_removed_with_the_reason(turns, reason, tmp_path):
    tokenizer = load_tokenizer(str(made.sentencepiece_model(tmp_path / "spm")))
    tally = Tally("tuning")
    document = Document(document_id(turns), tuple(turns), "test", {})
    assert not list(few_shot([document], tokenizer=tokenizer, chat=CHAT, seq_len=512, tally=tally))
    assert tally.counts["removed"] == {"tuning": {reason: 1}}
    assert len(tally.set_aside) == 1


def test_another_template_is_the_recipes_mistake(tmp_path):
    with pytest.raises(ValueError, match=r"corpora\.tuning\.chat: .*template: synthesizer"):
        list(few_shot([], tokenizer=None, chat=ChatConfig(), seq_len=512, tally=Tally("tuning")))
