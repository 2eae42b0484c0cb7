"""Text that grows token by token: the same as decoded at once, and never more than is certain."""

import numpy as np
import pytest

from model.continuation import Continuation
from tests.model.tiny_models import make_tokenizer, sample_texts

HARD = "Größe 37 °C — naïve “quotes” 日本語 🙂🙃 x² ±5 µg/ml\n\n  two spaces"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def grow(tokenizer, prompt, tokens, stop=()):
    """The pieces as a stream hands them out, and the text."""
    continuation = Continuation(tokenizer, np.array(prompt), stop)
    pieces = []
    for token in tokens:
        ended = continuation.add(int(token))
        pieces.append(continuation.new())
        if ended:
            break
    text = continuation.finish()
    pieces.append(continuation.new(last=True))
    return pieces, text, continuation


@pytest.mark.parametrize("text", [HARD, sample_texts()[0][:300]])
@pytest.mark.parametrize("cut", [1, 4, 9])
def test_prompt_and_continuation_are_the_whole_text(tokenizer, text, cut):
    ids = [tokenizer.bos_id, *tokenizer.encode(text).tolist()]
    while tokenizer.decode(ids[:cut]).endswith("\ufffd"):
        cut += 1
    pieces, continued, _ = grow(tokenizer, ids[:cut], ids[cut:])
    assert tokenizer.decode(ids[:cut]) + continued == text
    assert "".join(pieces) == continued
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_character_that_is_never_finished_is_said_at_the_end(tokenizer):
    ids = tokenizer.encode("a 🙂").tolist()
    pieces, text, _ = grow(tokenizer, ids[:1], ids[1:-1])
    assert "\ufffd" not in "".join(pieces[:-1])
    assert text.endswith("\ufffd")


def test_a_stop_string_across_tokens(tokenizer):
    text = "one two three four"
    ids = tokenizer.encode(text).tolist()
    assert len(ids) > 6
    for stop in ("two th", "three", "e f", "o t"):
        pieces, cut, continuation = grow(tokenizer, [tokenizer.bos_id], ids, (stop, "never"))
        assert cut == text[: text.index(stop)]
        assert "".join(pieces) == cut
        assert continuation.stopped


def test_what_only_looked_like_a_stop_is_handed_out_later(tokenizer):
    ids = tokenizer.encode("one two three").tolist()
    pieces, text, continuation = grow(tokenizer, [tokenizer.bos_id], ids, ("e two x", "ee!"))
    assert text == "one two three" == "".join(pieces)
    assert not continuation.stopped
