import pickle
import random
import subprocess
import sys
from pathlib import Path

import pytest

from data.comprehension.keywords import mine_keywords
from data.comprehension.language import load_language
from data.comprehension.reading import read
from data.comprehension.vocabulary import (
    CountedSample,
    Vocabulary,
    VocabularySample,
    keywords_among,
    load_vocabulary,
    plain_pieces,
    train_vocabulary,
)
from data.tokenizer import load_tokenizer
from tests.data import made_tokenizers as made

EN = load_language("en")
WORDS = [
    "the",
    "of",
    "a",
    "and",
    "in",
    "is",
    "was",
    "with",
    "patient",
    "nephrologist",
    "glomerulonephritis",
    "hemodialysis",
    "creatinine",
    "nephron",
    "tubule",
    "filtration",
    "anemia",
    "renal",
    "biopsy",
    "fever",
    "saw",
    "began",
    "treated",
    "doctor",
    "heart",
    "liver",
    "week",
    "cardiologist",
    "stenosis",
    "arrhythmia",
    "ventricle",
    "hospital",
    "winter",
    "summer",
    "house",
    "river",
    "mountain",
]
TEXTS = [" ".join(random.Random(i).choices(WORDS, k=40)) + "." for i in range(400)]


def test_boundary_marks_are_undone_before_vocabularies_are_compared():
    sentencepiece = ["<s>", "▁the", "▁heart", "s", "heart", "▁", "<0x0A>"]
    byte_level = ["Ġthe", "Ġheart", "s", "<|end|>", "Ġcaf", "Ã©", "ĠcafÃ©"]
    assert {"the", "heart"} <= plain_pieces(sentencepiece)
    assert "▁heart" not in plain_pieces(sentencepiece)
    assert {"the", "heart", "café"} <= plain_pieces(byte_level)
    assert not any("Ġ" in piece for piece in plain_pieces(byte_level))


def test_chinese_pieces_of_a_byte_level_tokenizer_are_read():
    piece = "".join(
        chr(b) if 33 <= b < 127 or 161 <= b < 173 or b >= 174 else chr(256 + _rank(b))
        for b in "我们".encode()
    )
    assert "我们" in plain_pieces([piece, "Ġa", "Ġb"])


def _rank(byte: int) -> int:
    others = [b for b in range(256) if not (33 <= b < 127 or 161 <= b < 173 or b >= 174)]
    return others.index(byte)


@pytest.mark.parametrize(
    ("piece", "general", "is_keyword"),
    [
        ("▁glomerulonephritis", "", True),
        ("glomerulonephritis", "", False),  # a part of a word
        ("▁glomerulonephritis", "glomerulonephritis", False),
        ("▁influences", "influence", False),  # its base form is general
        ("▁eliminated", "", False),  # a verb
        ("▁estimating", "", False),
        ("▁reasonably", "", False),
        ("▁kidney", "", True),
        ("▁10mg", "", False),
        ("▁flu", "", False),  # short
    ],
)
def test_which_pieces_are_keywords(piece: str, general: str, is_keyword: bool):
    found = keywords_among([piece], frozenset(general.split()), EN)
    assert bool(found) == is_keyword


def test_the_sample_is_chosen_by_content_alone():
    samples = []
    for order in (TEXTS, TEXTS[::-1], TEXTS + TEXTS[:100]):
        sample = VocabularySample(max_bytes=5000)
        for text in order:
            sample.add(text)
        samples.append(sample.texts())
    halves = [VocabularySample(5000), VocabularySample(5000)]
    for i, text in enumerate(TEXTS):
        halves[i % 2].add(text)
    halves[0].merge(halves[1])
    assert samples[0] == samples[1] == samples[2] == halves[0].texts()
    size = sum(len(text.encode()) for text in samples[0])
    assert 5000 <= size < 5000 + max(map(len, TEXTS))


def test_training_gives_the_same_bytes_and_happens_once(tmp_path: Path):
    options = {"vocab_size": 300, "max_bytes": 40_000}
    first = train_vocabulary(TEXTS, EN, tmp_path / "a", **options)
    again = train_vocabulary(TEXTS[::-1], EN, tmp_path / "b", **options)
    assert first.read_bytes() == again.read_bytes()
    assert first.name == again.name
    said: list[str] = []
    train_vocabulary(TEXTS, EN, tmp_path / "a", **options, log=said.append)
    assert said == []
    other = train_vocabulary(TEXTS[:200], EN, tmp_path / "a", **options, log=said.append)
    assert other != first
    assert len(said) == 1


def test_a_counted_sample_trains_the_same_vocabulary(tmp_path: Path):
    halves = [CountedSample(), CountedSample()]
    for i, text in enumerate(TEXTS):
        assert halves[i % 2].add(text)
    assert not halves[0].add(TEXTS[0])
    assert halves[0].merge(halves[1])
    counted = train_vocabulary(halves[0], EN, tmp_path / "a", vocab_size=300)
    whole = train_vocabulary(TEXTS, EN, tmp_path / "b", vocab_size=300)
    assert counted.name == whole.name
    assert counted.read_bytes() == whole.read_bytes()
    assert not halves[0].merge(halves[1])  # its texts are there already


def test_a_vocabulary_does_not_depend_on_the_hash_seed(tmp_path: Path):
    program = (
        "import sys, json\n"
        "from data.comprehension.language import load_language\n"
        "from data.comprehension.vocabulary import keywords_among\n"
        "pieces = json.loads(sys.argv[1])\n"
        "print(keywords_among(pieces, frozenset(['heart']), load_language('en')))\n"
    )
    pieces = '["▁kidney", "▁hearts", "▁creatinine", "▁nephrology", "▁dialysis"]'
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program, pieces],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ".", "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(outputs) == 1


def test_too_little_text_says_what_to_do(tmp_path: Path):
    with pytest.raises(ValueError, match=r"domain_vocab: auto.*name a SentencePiece model"):
        train_vocabulary([], EN, tmp_path)


@pytest.mark.parametrize("kind", [made.llama3])
def test_keywords_against_a_byte_level_tokenizer(tmp_path: Path, kind):
    general = load_tokenizer(kind(tmp_path / "general"))
    path = train_vocabulary(TEXTS, EN, tmp_path, vocab_size=300)
    vocabulary = load_vocabulary(path, general, EN)
    assert {"nephrologist", "glomerulonephritis", "creatinine"} <= set(vocabulary.words)
    assert all(rank > 0 for rank in vocabulary.words.values())
    assert pickle.loads(pickle.dumps(vocabulary)) == vocabulary
    assert load_vocabulary(path, general, EN).fingerprint == vocabulary.fingerprint


def test_a_missing_or_broken_model_file_is_named(tmp_path: Path):
    general = load_tokenizer(made.llama3(tmp_path / "general"))
    with pytest.raises(ValueError, match=r"domain_vocab: .*none\.model does not exist"):
        load_vocabulary(tmp_path / "none.model", general, EN)
    (tmp_path / "bad.model").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"bad\.model is not a SentencePiece model"):
        load_vocabulary(tmp_path / "bad.model", general, EN)


def test_sentences_with_enough_keywords_and_no_parts_of_compounds():
    words = {"kidney": 2, "dialysis": 3, "creatinine": 4, "plasma": 2, "nephritis": 5}
    vocabulary = Vocabulary(words, "en", "test")
    text = (
        "Dialysis lowers the creatinine and the plasma of the patient. "
        "The non-kidney cells need no dialysis at all here. "
        "Nephritis harms the kidney, and dialysis removes creatinine and plasma from the blood."
    )
    tasks = list(mine_keywords(read(text, EN), vocabulary, {}))
    assert [task.slots["keywords"] for task in tasks] == [
        "Dialysis, creatinine, plasma",
        "Nephritis, dialysis, creatinine",  # the three that the general tokenizer cuts most
    ]
    assert tasks[0].slots["sentence"].startswith("Dialysis lowers")


def test_the_published_vocabularies(realdata: Path):
    folder = realdata / "adaptllm"
    general = load_tokenizer(folder / "general.spm")
    vocabulary = load_vocabulary(folder / "domain.spm", general, EN)
    assert {"thymidylate", "atherosclerosis", "monoclonal", "testosterone"} <= set(vocabulary.words)
    # What the published miner took for domain words because they are long.
    assert not {
        "eliminated",
        "influences",
        "counteract",
        "reproduced",
        "estimating",
        "reasonably",
    } & set(vocabulary.words)
    assert len(pickle.dumps(vocabulary)) < 300_000
