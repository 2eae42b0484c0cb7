"""Words looked up give the library's own ids, whatever stands between them."""

import gzip
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from data import sentencepiece_words
from data.sentencepiece_proto import parse
from data.sentencepiece_words import Words
from data.tokenizer import load_tokenizer
from tests.data import made_tokenizers as made

PIECES = ["aspirin", "The", "heart", ".", " ", "  ", "   ", "\n", "\n\n", "\t", "▁", "\0", "\1", "日", "é", "1", "</s>"]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text(max_size=12)


@pytest.fixture(scope="module", params=[True, False], ids=["prefix", "no prefix"])
def model(request, tmp_path_factory):
    path = made.sentencepiece_model(
        tmp_path_factory.mktemp("spm"), add_dummy_prefix=request.param, user_defined_symbols=""
    )
    return path.read_bytes()


@settings(max_examples=300)
@given(texts=st.lists(TEXTS, max_size=4))
def test_ids_are_the_librarys(texts, model):
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    library = sentencepiece.SentencePieceProcessor(model_proto=model)
    words = Words.of(model)
    assert words is not None
    for _ in range(2):  # the second time from memory
        for text, ids in zip(texts, words.encode(texts), strict=True):
            if ids is None:
                assert set(text) & set("\0\1▁")
                continue
            assert ids.dtype == np.int32
            assert ids.tolist() == library.encode(text)


def test_only_models_whose_words_stand_alone_are_taken(model):
    assert Words.of(model) is not None
    for change in (
        lambda p: setattr(p.trainer_spec, "model_type", p.trainer_spec.UNIGRAM),
        lambda p: setattr(p.trainer_spec, "byte_fallback", False),
        lambda p: setattr(p.normalizer_spec, "remove_extra_whitespaces", True),
        lambda p: setattr(p.normalizer_spec, "precompiled_charsmap", b"x"),
        lambda p: p.pieces.add(piece="a▁b", type=p.pieces[0].NORMAL),
        lambda p: p.pieces.add(piece=".\n", type=p.pieces[0].NORMAL),
        lambda p: p.pieces.add(piece="mark", type=p.pieces[0].USER_DEFINED),
    ):
        proto = parse(model)
        change(proto)
        assert Words.of(proto.SerializeToString()) is None


def test_memory_is_bounded_and_long_words_are_not_kept(model, monkeypatch):
    monkeypatch.setattr(sentencepiece_words, "MAX_WORDS", 10)
    words = Words.of(model)
    assert words is not None
    library = sentencepiece.SentencePieceProcessor(model_proto=model)
    for number in range(30):
        text = f"a word {number} {'heart' * 20}"
        [ids] = words.encode([text])
        assert ids is not None
        assert ids.tolist() == library.encode(text)
        assert len(words._known) <= 10
        assert all(len(word) <= sentencepiece_words.MAX_CHARS for word in words._known)


def test_threads_share_it(model):
    words = Words.of(model)
    assert words is not None
    library = sentencepiece.SentencePieceProcessor(model_proto=model)
    texts = [f"The heart {number % 7} {'pumps' * 9} {number}" for number in range(200)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda text: words.encode([text])[0], texts))
    assert [ids.tolist() for ids in found if ids is not None] == library.encode(texts)


def test_llama2_on_real_text(realdata):
    path = str(realdata / "llama2-tokenizer.model")
    library = sentencepiece.SentencePieceProcessor(model_file=path)
    tokenizer = load_tokenizer(path)
    with gzip.open(realdata / "medquad.jsonl.gz", "rt") as file:
        texts = [json.loads(line)["answer"] for line, _ in zip(file, range(1000), strict=False)]
    with gzip.open(realdata / "general/alpaca_zh.json.gz", "rt") as file:
        texts += [row["output"] for row in json.load(file)[:300]]
    assert any("  " in text for text in texts)
    expected = library.encode(texts)
    assert [ids.tolist() for ids in tokenizer.encode_batch(texts)] == expected
