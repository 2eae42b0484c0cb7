"""Tokens that a document brings along: used once, and only where they are the ones asked for."""

import dataclasses

import numpy as np
import pytest

from data.chat import encode_documents, encoded_by
from data.config import ChatConfig
from data.document import Document, Turn, uniform
from data.encoded import EncodedDocument, with_tokens
from data.tokenizer import load_tokenizer
from tests.data import made_tokenizers

ENDS = {"add_bos": True, "add_eos": True}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(made_tokenizers.sentencepiece_model(tmp_path_factory.mktemp("sp")))


@pytest.fixture
def document(tokenizer):
    plain = Document("1", (Turn("text", "Aspirin reduces fever."),), "here")
    [encoded] = encode_documents([plain], tokenizer, ChatConfig(), **ENDS)
    return with_tokens(plain, encoded, encoded_by(tokenizer, ChatConfig(), **ENDS))


def test_known_tokens_are_taken_as_they_are(tokenizer, document, monkeypatch):
    def refuse(texts):
        assert not texts, "a known text went through the tokenizer again"
        return []

    monkeypatch.setattr(tokenizer, "encode_batch", refuse)
    [again] = encode_documents([document], tokenizer, ChatConfig(), **ENDS)
    assert again is document.encoded


def test_other_settings_or_turns_tokenize_again(tokenizer, document):
    [bare] = encode_documents([document], tokenizer, ChatConfig(), add_bos=False, add_eos=True)
    assert np.array_equal(bare.tokens, document.encoded.tokens[1:])
    longer = dataclasses.replace(document, turns=(Turn("text", "Aspirin reduces fever and pain."),))
    [encoded] = encode_documents([longer], tokenizer, ChatConfig(), **ENDS)
    assert len(encoded.tokens) > len(document.encoded.tokens)


def test_a_document_with_tokens_is_written_as_any_other(document):
    plain = Document(document.id, document.turns, document.source, document.meta)
    assert document.to_json() == plain.to_json()
    assert type(EncodedDocument.from_json(document.to_json())) is EncodedDocument


def test_uniform_numbers_are_even_and_depend_on_both_names():
    numbers = [uniform(str(i), "a") for i in range(4000)]
    counts = np.histogram(numbers, bins=10, range=(0, 1))[0]
    assert counts.min() > 320
    assert counts.max() < 480
    assert len({uniform(a, b) for a in "xyz" for b in "xyz"}) == 9
