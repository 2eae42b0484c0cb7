"""The exported tokenizer, loaded by transformers, gives the training tokenizer's ids."""

import gzip
import json
import random
from pathlib import Path

import pytest
from etils import epath

from data.chat import ChatConfig, Turn
from data.config import SentencePieceConfig
from data.tokenizer import load_tokenizer, train_sentencepiece
from model.huggingface.same_ids import HARD_TEXTS, Material, compare_tokenizers
from model.huggingface.tokenizer import write_tokenizer

transformers = pytest.importorskip("transformers")

SAMPLE = Path(__file__).resolve().parents[3] / "data/sample/biomedicine.jsonl"
ODD = ["in and", "of it", "mg/dL", "3.5", "12", "α", "é", "糖", "✓", "kid"]
CONVERSATIONS = [
    [Turn("user", "What is  anaemia?\n- in short\n")],
    [
        Turn("system", "Be brief."),
        Turn("user", "Hi"),
        Turn("assistant", "Hello."),
        Turn("user", "é 🙂?"),
    ],
]


def sample_texts(count=300, seed=0):
    """Passages of the sample corpus, with the white space and the signs of real web pages put in."""
    rng = random.Random(seed)
    joints = [" "] * 20 + [
        "  ",
        "   ",
        "\n",
        "\n\n  • ",
        "\t",
        "       ",
        ", ",
        "\n                    ",
    ]
    words = [w for line in SAMPLE.open() for w in json.loads(line)["text"].split()]
    texts = []
    for _ in range(count):
        start, length = rng.randrange(len(words)), rng.randint(1, 120)
        taken = [
            w if rng.random() > 0.03 else rng.choice(ODD) for w in words[start : start + length]
        ]
        texts.append("".join(word + rng.choice(joints) for word in taken))
    return texts


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def trained(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    config = SentencePieceConfig(vocab_size=400, model_type=request.param)
    return train_sentencepiece(sample_texts(2000, seed=1), folder, config)


def export(tokenizer, folder, *, add_bos=True, model_type="llama", chat_template=None):
    """As in an exported folder: transformers looks at config.json to choose a class."""
    architecture = f"{model_type.capitalize()}ForCausalLM"
    config = {"model_type": model_type, "architectures": [architecture]}
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(
        tokenizer,
        epath.Path(folder),
        add_bos=add_bos,
        max_seq_len=256,
        chat_template=chat_template,
    )
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("add_bos", [True, False])
@pytest.mark.parametrize("model_type", ["llama", "mistral"])
def test_ids_of_a_trained_model(trained, add_bos, model_type, tmp_path):
    theirs = export(trained, tmp_path, add_bos=add_bos, model_type=model_type)
    material = Material(sample_texts(), CONVERSATIONS, ChatConfig())
    report = compare_tokenizers(trained, str(tmp_path), material, add_bos=add_bos)
    assert report["problems"] == []
    assert report["documents"] > 300
    assert report["conversations"] == 2
    is_bpe = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["type"] == "BPE"
    assert report["ties"] <= (
        0 if is_bpe else 10
    )  # of equal sums, float32 and float64 choose apart
    begin = [trained.bos_id] if add_bos else []
    assert theirs("renal failure")["input_ids"] == begin + trained.encode("renal failure").tolist()
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.unk_token_id) == (1, 2, 0)
    assert theirs.pad_token_id is None
    assert len(theirs) == trained.vocab_size
    assert theirs.model_max_length == 256
    text = "a  b\n • é 🙂"
    assert theirs.decode(theirs(text, add_special_tokens=False)["input_ids"]) == text


def test_special_strings_are_special_in_transformers(trained, tmp_path):
    theirs = export(trained, tmp_path)
    ids = theirs("<s>a</s><s>b", add_special_tokens=False)["input_ids"]
    a, b = trained.encode("a").tolist(), trained.encode("b").tolist()
    assert ids == [1, *a, 2, 1, *b]
    report = compare_tokenizers(
        trained, str(tmp_path), Material(["the string </s> in a text"]), add_bos=True
    )
    assert report["left_out"] == 1  # in training it is text


@pytest.mark.parametrize("template", ["plain", "llama2", "huatuo"])
@pytest.mark.parametrize("add_bos", [True, False])
def test_chat_templates_render_and_tokenize_as_in_training(trained, template, add_bos, tmp_path):
    from model.export import chat_template

    chat = ChatConfig(template=template)
    source = chat_template(chat, trained, add_bos)
    export(trained, tmp_path, add_bos=add_bos, chat_template=source)
    material = Material((), CONVERSATIONS, chat)
    report = compare_tokenizers(trained, str(tmp_path), material, add_bos=add_bos)
    assert report["problems"] == []
    assert report["conversations"] + report["left_out"] >= 2
    assert report["conversations"] >= 2


def test_a_difference_is_found(trained, tmp_path):
    export(trained, tmp_path)
    path = tmp_path / "tokenizer.json"
    spec = json.loads(path.read_text())
    spec["normalizer"]["normalizers"] = spec["normalizer"]["normalizers"][1:]  # no ▁ before a text
    path.write_text(json.dumps(spec))
    report = compare_tokenizers(trained, str(tmp_path), Material(sample_texts(50)), add_bos=True)
    assert report["different"] > 40
    assert "transformers gives other ids" in report["problems"][0]
    assert report["examples"][0]["training"] != report["examples"][0]["exported"]


def test_user_defined_pieces_are_whole_wherever_they_are(tmp_path):
    import io

    import sentencepiece

    for kind in ("bpe", "unigram"):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sample_texts(1000)),
            model_writer=model,
            vocab_size=400,
            model_type=kind,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            user_defined_symbols=["mg/dL", "kid"],
            minloglevel=2,
        )
        folder = tmp_path / kind
        folder.mkdir()
        (folder / "tokenizer.model").write_bytes(model.getvalue())
        tokenizer = load_tokenizer(folder)
        out = tmp_path / f"{kind}-out"
        out.mkdir()
        theirs = export(tokenizer, out)
        assert "kid" in theirs.convert_ids_to_tokens(theirs("akidney")["input_ids"])
        texts = [*sample_texts(), "kid", "kidkid mg/dL", "xmg/dLkid  kidney "]
        report = compare_tokenizers(tokenizer, str(out), Material(texts), add_bos=True)
        assert report["problems"] == [], kind


def test_normalising_models(tmp_path):
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sample_texts(1000)),
        model_writer=model,
        vocab_size=300,
        model_type="bpe",
        normalization_rule_name="nmt_nfkc_cf",
        minloglevel=2,
    )
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "tokenizer.model").write_bytes(model.getvalue())
    tokenizer = load_tokenizer(tmp_path / "in")
    (tmp_path / "out").mkdir()
    export(tokenizer, tmp_path / "out")
    texts = [*sample_texts(), "  ＡＢＣ  ﬁ ½ \u00a0 x \t y  ", "unseen: Ж漢Ж漢 in a row"]
    report = compare_tokenizers(tokenizer, str(tmp_path / "out"), Material(texts), add_bos=True)
    assert report["problems"] == []


@pytest.mark.parametrize("add_bos", [True, False])
@pytest.mark.parametrize("claimed", ["LlamaTokenizer", "PreTrainedTokenizerFast", None])
def test_hugging_face_tokenizers_stay_what_they_are(add_bos, claimed, tmp_path):
    """A byte-level tokenizer whose settings claim a class that version 5 would rebuild otherwise."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    special = ["<|begin|>", "<|end|>", "<|turn|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(sample_texts(500), trainer)
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    made.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
    if claimed:
        settings["tokenizer_class"] = claimed
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer(folder)
    theirs = export(tokenizer, out, add_bos=add_bos)
    report = compare_tokenizers(tokenizer, str(out), Material(sample_texts()), add_bos=add_bos)
    assert report["problems"] == []
    assert report["documents"] == len(HARD_TEXTS) + 300 + 16
    first = theirs("kidney")["input_ids"][0]
    assert (first == tokenizer.bos_id) == add_bos
    assert (
        load_tokenizer(out).encode("a  kidney").tolist() == tokenizer.encode("a  kidney").tolist()
    )


def test_a_run_loads_its_own_export(trained, tmp_path):
    export(trained, tmp_path)
    again = load_tokenizer(tmp_path)
    for text in sample_texts(50):
        assert again.encode(text).tolist() == trained.encode(text).tolist()
    assert again.add_bos
    assert (again.bos_id, again.eos_id, again.vocab_size) == (1, 2, trained.vocab_size)


def medquad(realdata):
    with gzip.open(realdata / "medquad.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file]


@pytest.mark.parametrize("model", ["llama2-tokenizer.model", "adaptllm/general.spm"])
def test_llama2_on_real_documents(model, realdata, tmp_path):
    tokenizer = load_tokenizer(realdata / model)
    rows = medquad(realdata)[::6]
    chat = ChatConfig(template="llama2")
    from model.export import chat_template

    export(tokenizer, tmp_path, chat_template=chat_template(chat, tokenizer, True))
    conversations = [[Turn("user", row["question"] + "\n\n" + row["answer"])] for row in rows[:300]]
    with gzip.open(realdata / "general/alpaca_zh.json.gz", "rt") as file:
        chinese = [row["output"] for row in json.load(file)]
    texts = [row["answer"] for row in rows] + chinese
    material = Material(texts, conversations, chat)
    report = compare_tokenizers(tokenizer, str(tmp_path), material, add_bos=True)
    assert report["problems"] == []
    assert report["documents"] >= 3000
    assert report["conversations"] == 600
    assert report["ties"] == 0
    assert sum("  " in text for text in texts) > 1000  # the runs of spaces that matter are there


def test_transformers_own_conversion_would_fail(realdata, tmp_path):
    """Why this file exists. When this fails, transformers has caught up."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    model = (realdata / "llama2-tokenizer.model").read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(model)
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"})
    )
    tokenizer = load_tokenizer(tmp_path / "tokenizer.model")
    texts = [row["answer"] for row in medquad(realdata)[:200]]
    report = compare_tokenizers(tokenizer, str(tmp_path), Material(texts), add_bos=True)
    assert report["different"] > 20
