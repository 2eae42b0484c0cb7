"""A text that writes its special tokens out has the ids that transformers gives it."""

import numpy as np
import pytest

from data.literal import encode_literal
from data.synthesis.format import Example, Pair, write_prompt
from data.tokenizer import load_tokenizer
from tests.data import made_tokenizers

TEXT = write_prompt("The heart pumps.\n\nIt beats.", [Example("Aspirin.", (Pair("Why?", "Pain"),))])


@pytest.mark.parametrize("prefix", ["every", "first"])
def test_a_prompt_has_the_ids_of_transformers(tmp_path, prefix):
    from transformers import AutoTokenizer

    folder = made_tokenizers.llama2(tmp_path / prefix, prefix=prefix)
    theirs = AutoTokenizer.from_pretrained(folder)(TEXT, add_special_tokens=False)["input_ids"]
    ours = encode_literal(TEXT, load_tokenizer(folder))
    assert ours.tolist() == theirs
    assert ours.tolist().count(1) == 2  # BOS where each example begins, and nowhere else
    assert ours[0] == 1
    assert ours[1] != 1
    assert ours.dtype == np.int32


def test_a_sentencepiece_model_reads_the_same_marks(tmp_path):
    tokenizer = load_tokenizer(made_tokenizers.sentencepiece_model(tmp_path))
    ids = encode_literal(TEXT, tokenizer)
    assert ids[0] == tokenizer.bos_id
    assert (ids == tokenizer.bos_id).sum() == 2
    assert (ids == tokenizer.eos_id).sum() == 1
    assert tokenizer.decode(ids, keep_special=True).split() == TEXT.split()


def test_a_text_without_marks_is_ordinary(tmp_path):
    tokenizer = load_tokenizer(made_tokenizers.sentencepiece_model(tmp_path))
    assert encode_literal("It beats.", tokenizer).tolist() == tokenizer.encode("It beats.").tolist()
    assert encode_literal("", tokenizer).tolist() == []
