"""Ids, spans and byte counts against the libraries that the tokenizers come from."""

import json
import pickle
import shutil

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from data.config import SentencePieceConfig
from data.tokenizer import load_tokenizer, train_sentencepiece
from tests.data import made_tokenizers as made

TEXT = "Aspirin  reduces 日本🙂 fever.\n\n- é 1234 \t</s> <|eot_id|> <unk>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizers")


@pytest.fixture(scope="module")
def spm(folder):
    return load_tokenizer(str(made.sentencepiece_model(folder / "spm")))


@pytest.fixture(scope="module")
def llama3(folder):
    return load_tokenizer(str(made.llama3(folder / "llama3")))


@pytest.fixture(scope="module")
def llama2(folder):
    return load_tokenizer(str(made.llama2(folder / "llama2", prefix="every")))


@pytest.fixture(scope="module")
def metaspace(folder):
    return load_tokenizer(str(made.llama2(folder / "metaspace", prefix="first")))


@pytest.fixture(params=["spm", "llama3", "llama2", "metaspace"])
def tokenizer(request):
    return request.getfixturevalue(request.param)


def test_ids_are_the_librarys_own(spm, folder):
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm" / "tokenizer.model"))
    for text in [*made.TEXTS[:4], TEXT, "", " ", "\n", "  a"]:
        assert spm.encode(text).tolist() == model.encode(text)
        assert spm.encode_batch([text, text])[1].tolist() == model.encode(text)


@pytest.mark.parametrize("name", ["llama3", "llama2", "metaspace"])
def test_ids_are_those_of_transformers(name, request, folder):
    from transformers import AutoTokenizer

    tokenizer = request.getfixturevalue(name)
    theirs = AutoTokenizer.from_pretrained(folder / name)
    for text in [*made.TEXTS[:4], TEXT, " a", "\n"]:
        expected = theirs(text, add_special_tokens=False, split_special_tokens=True).input_ids
        assert tokenizer.encode(text).tolist() == expected
        assert tokenizer.encode_batch([text])[0].tolist() == expected
    assert (theirs("a").input_ids[0] == theirs.bos_token_id) == tokenizer.add_bos


def test_encoding_is_int32_and_batches_agree(tokenizer):
    texts = [*made.TEXTS[:4], TEXT, ""]
    for ids, text in zip(tokenizer.encode_batch(texts), texts, strict=True):
        assert ids.dtype == np.int32
        assert ids.tolist() == tokenizer.encode(text).tolist()
        assert ids.tolist() == tokenizer.encode_offsets(text)[0].tolist()


def test_special_strings_in_text_are_text(tokenizer):
    for special, id_ in tokenizer.special_ids.items():
        ids = tokenizer.encode(f"a{special}b {special}")
        assert id_ not in ids
        assert not set(tokenizer.special_ids.values()) & set(ids.tolist())
        assert special in tokenizer.decode(ids)


TEXTS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\ufdd0\ufdd1▁"), max_size=40
)


@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
@pytest.mark.parametrize("name", ["spm", "llama3", "llama2", "metaspace"])
def test_bytes_are_counted_exactly(name, text, request):
    tokenizer = request.getfixturevalue(name)
    ids = tokenizer.encode(text)
    expected = len(text.encode()) + tokenizer.prefix_bytes if text else 0
    if name == "metaspace" and text.startswith(" "):
        expected -= 1  # Metaspace puts no space before a text that has one
    assert tokenizer.byte_lengths()[ids].sum() == expected
    assert tokenizer.decode(ids) == text.removeprefix(" " if name == "metaspace" else "")


@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
@pytest.mark.parametrize("name", ["spm", "llama3", "llama2", "metaspace"])
def test_spans_cover_the_text_in_order(name, text, request):
    tokenizer = request.getfixturevalue(name)
    ids, spans = tokenizer.encode_offsets(text)
    assert spans.shape == (len(ids), 2)
    assert spans.dtype == np.int32
    assert (np.diff(spans[:, 0]) >= 0).all()
    assert (spans[:, 1] >= spans[:, 0]).all()
    covered = np.zeros(len(text), int)
    for start, end in spans:
        covered[start:end] += 1
    assert covered.all()
    lengths = tokenizer.byte_lengths()[ids]
    for i, (start, end) in enumerate(spans):
        # A token never stands for more bytes than its characters have; the first may have a space put before it.
        assert lengths[i] <= len(text[start:end].encode()) + (i == 0) * tokenizer.prefix_bytes


@settings(max_examples=150, deadline=None)
@given(text=st.text(st.sampled_from(list("ab  \n\té日🙂1▁")), max_size=20))
def test_spans_are_the_librarys(text, spm, folder):
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm" / "tokenizer.model"))
    expected = model.encode(text, return_type="offset_mapping")
    ids, spans = spm.encode_offsets(text)
    assert ids.tolist() == expected["ids"]
    for ours, theirs, id_ in zip(spans.tolist(), expected["offsets"], ids.tolist(), strict=True):
        if model.is_byte(id_) and theirs[0] == theirs[1]:
            theirs = (theirs[0], theirs[1] + 1)
        assert tuple(ours) == theirs


def test_spans_point_into_the_text_as_it_was_before_normalisation(tmp_path):
    path = made.sentencepiece_model(
        tmp_path, normalization_rule_name="nfkc", remove_extra_whitespaces=True
    )
    tokenizer = load_tokenizer(str(path))
    text = "ﬁ   heart ①"
    ids, spans = tokenizer.encode_offsets(text)
    pieces = [text[start:end].strip() for start, end in spans]
    assert tokenizer.decode(ids) == "fi heart 1"
    assert "".join(dict.fromkeys(pieces)) == "ﬁheart①"


def test_spans_of_byte_pieces(spm, llama2):
    for tokenizer in (spm, llama2):
        ids, spans = tokenizer.encode_offsets("x🙂y")
        pieces = [tuple(span) for span, id_ in zip(spans.tolist(), ids, strict=True)]
        assert pieces.count((1, 2)) == 4
        assert (tokenizer.byte_lengths()[ids][[p == (1, 2) for p in pieces]] == 1).all()


def test_special_tokens_have_no_bytes(tokenizer):
    assert len(tokenizer.byte_lengths()) == tokenizer.vocab_size
    assert tokenizer.byte_lengths().dtype == np.int32
    assert not tokenizer.byte_lengths()[list(tokenizer.special_ids.values())].any()
    assert {tokenizer.bos_id, tokenizer.eos_id} <= set(tokenizer.special_ids.values())


def test_decode_leaves_special_tokens_out_or_names_them(tokenizer):
    ids = [tokenizer.bos_id, *tokenizer.encode("It is asthma."), tokenizer.eos_id]
    assert tokenizer.decode(ids) == "It is asthma."
    bos, eos = tokenizer.special_names["bos_token"], tokenizer.special_names["eos_token"]
    assert tokenizer.decode(ids, keep_special=True) == f"{bos}It is asthma.{eos}"
    assert tokenizer.decode([*ids, tokenizer.vocab_size + 7]) == "It is asthma."


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "copy")
    copy = load_tokenizer(str(tmp_path / "copy"))
    assert copy.fingerprint == tokenizer.fingerprint
    for name in (
        "kind",
        "vocab_size",
        "bos_id",
        "eos_id",
        "pad_id",
        "unk_id",
        "add_bos",
        "special_ids",
    ):
        assert getattr(copy, name) == getattr(tokenizer, name), name
    lengths = np.load(tmp_path / "copy" / "byte_lengths.npy")
    assert (lengths == tokenizer.byte_lengths()).all()
    assert copy.encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()
    other = pickle.loads(pickle.dumps(tokenizer))
    assert other.fingerprint == tokenizer.fingerprint


def test_fingerprints_differ_when_ids_do(tokenizer, spm, llama3, tmp_path):
    assert spm.fingerprint != llama3.fingerprint
    changed = load_tokenizer(str(made.llama3(tmp_path, eos_token="<|eot_id|>")))
    assert changed.eos_id == changed.special_ids["<|eot_id|>"] != llama3.eos_id
    assert changed.fingerprint != llama3.fingerprint


def test_bos_by_family(folder, llama3, llama2, spm):
    assert llama3.add_bos
    assert llama2.add_bos
    assert spm.add_bos
    neox = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    tokenizer = load_tokenizer(
        str(made.byte_level(folder / "neox", made.CHATML, bos=False, **neox))
    )
    assert tokenizer.bos_id == tokenizer.eos_id is not None
    assert not tokenizer.add_bos
    tokenizer = load_tokenizer(str(made.llama3(folder / "told", add_bos_token=False)))
    assert not tokenizer.add_bos


def test_names_from_the_models_config_outlive_it(tmp_path):
    made.byte_level(tmp_path / "a", made.CHATML, bos=False)
    with pytest.raises(ValueError, match=r"no end-of-text token.*set eos_token"):
        load_tokenizer(str(tmp_path / "a"))
    size = json.loads((tmp_path / "a" / "tokenizer.json").read_text())["added_tokens"][-1]["id"]
    (tmp_path / "a" / "config.json").write_text(json.dumps({"eos_token_id": [size, 0]}))
    tokenizer = load_tokenizer(str(tmp_path / "a"))
    assert tokenizer.eos_id == size == tokenizer.special_ids["<|im_end|>"]
    tokenizer.save(tmp_path / "b")
    copy = load_tokenizer(str(tmp_path / "b"))
    assert (copy.eos_id, copy.fingerprint) == (size, tokenizer.fingerprint)


def test_a_model_that_takes_typed_special_strings_for_tokens_says_so(tmp_path):
    from tokenizers import Tokenizer, models

    words = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "a": 2}, unk_token="<unk>"))
    words.add_special_tokens(["</s>"])
    words.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    with pytest.warns(UserWarning, match="'</s>' inside a document becomes the special token"):
        load_tokenizer(str(tmp_path))


def test_pieces_that_a_sentencepiece_folder_calls_special_are_hidden_from_text(tmp_path):
    path = made.sentencepiece_model(tmp_path, user_defined_symbols=["<|im_end|>", "<pad>", "<br>"])
    bare = load_tokenizer(str(path))
    assert bare.pad_id == bare.special_ids["<pad>"]
    assert bare.pad_id not in bare.encode("a<pad>b")
    settings = {"eos_token": "<|im_end|>", "chat_template": "{{ messages[0].content }}"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.eos_id == bare.encode("<|im_end|>")[-1]
    assert tokenizer.eos_id not in tokenizer.encode("a<|im_end|>b")
    assert tokenizer.encode("a<br>b").tolist() == bare.encode("a<br>b").tolist()
    assert tokenizer.chat_template == settings["chat_template"]


def test_tokenizer_json_goes_before_tokenizer_model(tmp_path, folder):
    shutil.copytree(folder / "llama3", tmp_path / "both")
    shutil.copy(made.sentencepiece_model(tmp_path / "spm"), tmp_path / "both")
    tokenizer = load_tokenizer(str(tmp_path / "both"))
    assert tokenizer.kind == "huggingface"
    tokenizer.save(tmp_path / "copy")
    assert (tmp_path / "copy" / "tokenizer.model").exists()


def test_parts_are_tokenized_as_one_whole(llama3, metaspace, llama2):
    from tokenizers import Tokenizer

    parts = ["system </s> <|eot_id|>", 0, " What is it?\n", 0, "日本🙂"]
    for tokenizer in (llama3, metaspace, llama2):
        special = tokenizer.eos_id
        name = tokenizer.special_names["eos_token"]
        given = [special if part == 0 else part for part in parts]
        results = tokenizer.encode_parts(given)
        for (ids, spans), part in zip(results, given, strict=True):
            if isinstance(part, str):
                assert spans.max() == len(part)
                assert spans.min() == 0
                assert tokenizer.decode(ids).strip() == part.strip()
            else:
                assert ids.tolist() == [special]
        # What the library makes of the whole, in a text whose special strings are all meant.
        library = Tokenizer.from_str((tokenizer._files["tokenizer.json"]).decode())
        plain = [
            part.replace("</s> <|eot_id|>", "") if isinstance(part, str) else part for part in given
        ]
        whole = "".join(part if isinstance(part, str) else name for part in plain)
        expected = library.encode(whole, add_special_tokens=False).ids
        assert (
            np.concatenate([ids for ids, _ in tokenizer.encode_parts(plain)]).tolist() == expected
        )


def test_special_tokens_that_eat_spaces(tmp_path):
    made.llama3(tmp_path)
    spec = json.loads((tmp_path / "tokenizer.json").read_text())
    spec["added_tokens"][4] |= {"rstrip": True, "lstrip": True}
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    tokenizer = load_tokenizer(str(tmp_path))
    eater = tokenizer.special_ids["<|eot_id|>"]
    (ids, _), _, (behind, spans) = tokenizer.encode_parts(["fever  ", eater, "  pain"])
    assert tokenizer.decode(ids) == "fever"
    assert tokenizer.decode(behind) == "pain"
    assert spans[0, 0] == 2
    assert spans[-1, 1] == 6


def test_missing_and_wrong_tokenizers_say_so(tmp_path):
    with pytest.raises(
        ValueError, match=r"tokenizer: /no/such/thing\.model does not exist; name a SentencePiece"
    ):
        load_tokenizer("/no/such/thing.model")
    with pytest.raises(ValueError, match="has neither tokenizer.json nor tokenizer.model"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "broken.model").write_bytes(b"not a model")
    with pytest.raises(ValueError, match="is not a SentencePiece model"):
        load_tokenizer(str(tmp_path / "broken.model"))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json cannot be read"):
        load_tokenizer(str(tmp_path))


def test_training_is_deterministic_and_llama_like(tmp_path):
    texts = ["Aspirin  reduces fever.\n\n  12 34\n", *made.TEXTS]
    config = SentencePieceConfig(vocab_size=400)
    first = train_sentencepiece(texts, str(tmp_path / "a"), config)
    second = train_sentencepiece(texts, str(tmp_path / "b"), config)
    assert (tmp_path / "a/tokenizer.model").read_bytes() == (
        tmp_path / "b/tokenizer.model"
    ).read_bytes()
    assert first.fingerprint == second.fingerprint
    assert (first.vocab_size, first.unk_id, first.bos_id, first.eos_id) == (400, 0, 1, 2)
    assert (tmp_path / "a" / "byte_lengths.npy").exists()
    for text in ["  two  spaces ", "ﬁ Å ① unnormalised", "12", "🙂", "\n\n"]:
        assert first.decode(first.encode(text)) == text
    digits = first.encode_offsets("x1234")[1].tolist()
    assert digits[-4:] == [[1, 2], [2, 3], [3, 4], [4, 5]]


def test_symbols_are_one_token_wherever_they_stand(tmp_path):
    config = SentencePieceConfig(vocab_size=400, symbols=("<CON>", "</END>"))
    tokenizer = train_sentencepiece(made.TEXTS, str(tmp_path), config)
    ids = [tokenizer.encode(f"a{mark}b").tolist() for mark in config.symbols]
    for mark, encoded in zip(config.symbols, ids, strict=True):
        assert len([i for i in encoded if tokenizer.decode([i]) == mark]) == 1
        assert tokenizer.decode(encoded) == f"a{mark}b"
    assert len(tokenizer.encode("<CON")) > 2  # a part of one is not it


def test_training_takes_long_lines_and_stops_at_its_sample(tmp_path):
    word = "pneumonoultramicroscopic"
    long_line = [f"{word} " * 4000]
    tokenizer = train_sentencepiece(
        long_line, str(tmp_path / "a"), SentencePieceConfig(vocab_size=320)
    )
    assert len(tokenizer.encode(word)) <= 3
    with pytest.raises(ValueError, match=r"train_tokenizer\.vocab_size: 9000 pieces"):
        train_sentencepiece(made.TEXTS, str(tmp_path / "b"), SentencePieceConfig(vocab_size=9000))
    config = SentencePieceConfig(vocab_size=320, sample_mb=0.05)

    def texts():
        yield from long_line
        raise AssertionError("read on behind the sample")

    train_sentencepiece(texts(), str(tmp_path / "c"), config)


def test_llama2_ids_on_real_text(realdata):
    import gzip

    tokenizer = load_tokenizer(str(realdata / "llama2-tokenizer.model"))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id, tokenizer.pad_id) == (
        1,
        2,
        0,
        None,
    )
    assert tokenizer.add_bos
    assert tokenizer.encode("Hello world").tolist() == [15043, 3186]
    assert tokenizer.encode("[INST] <<SYS>>\n").tolist() == [
        518,
        25580,
        29962,
        3532,
        14816,
        29903,
        6778,
        13,
    ]
    with gzip.open(realdata / "medquad.jsonl.gz", "rt") as file:
        texts = [json.loads(line)["answer"] for line, _ in zip(file, range(300), strict=False)]
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert tokenizer.byte_lengths()[ids].sum() == len(text.encode()) + 1
        assert tokenizer.decode(ids) == text


def test_the_padded_llama_vocabulary(realdata):
    tokenizer = load_tokenizer(str(realdata / "adaptllm" / "general.spm"))
    assert (tokenizer.vocab_size, tokenizer.pad_id) == (32001, 32000)
    assert 32000 not in tokenizer.encode("a<pad>b")
