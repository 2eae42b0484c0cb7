"""General instructions as their sets publish them: each shape is `fields`, and reads as text.

The rows are ours; their keys, nesting and habits are those of OpenOrca, LIMA, WizardLM evol instruct
V2, Alpaca and ShareGPT.
"""

import gzip
import json

import pytest

from data.chat import encode_documents, render
from data.config import ChatConfig, CorpusConfig, FieldsConfig
from data.sources import read
from data.tokenizer import load_tokenizer
from tests.data import made_tokenizers

ORCA = [
    {
        "id": "niv.7",
        "system_prompt": "You explain things to a child.",
        "question": "Why is the sky blue?\nKeep it short.",
        "response": "Air scatters blue light most.",
    },
    {"id": "flan.3", "system_prompt": "", "question": "Translate: Hund", "response": "dog"},
]
LIMA = [
    {"conversations": ["How do I boil an egg?", "Eight minutes in boiling water."], "source": "a"},
    {"conversations": ["Name a bird.", "A wren.", "Another?", "An owl."], "source": "multi_turn"},
    {"conversations": ["A question of the test set"], "source": "test"},
]
WIZARD = [
    {
        "idx": "Xy1",
        "conversations": [
            {"from": "human", "value": "Sort 3, 1, 2 and explain each step."},
            {"from": "gpt", "value": "1, 2, 3. The smallest goes first."},
        ],
    }
]
ALPACA = [
    {"instruction": "Add the numbers.", "input": "2 and 3", "output": "5"},
    {"instruction": "Name a prime.", "input": "", "output": "7"},
]
SHAREGPT = [
    {
        "id": "s1",
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": "Hi"},
            {"from": "gpt", "value": "Hello."},
            {"from": "human", "value": "Bye"},
            {"from": "gpt", "value": "Goodbye."},
        ],
    },
    {"id": "s2", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": ""}]},
]
FIELDS = {
    "openorca": {"prompt": "question", "response": "response", "id": "id"},
    "openorca with its system prompts": {
        "prompt": "question",
        "response": "response",
        "system": "system_prompt",
        "id": "id",
    },
    "lima": {"turns": "conversations"},
    "wizardlm": {"turns": "conversations", "id": "idx"},
    "alpaca": {"prompt": "instruction", "input": "input", "response": "output"},
    "sharegpt": {"turns": "conversations", "id": "id"},
}
USER, ASSISTANT, SYSTEM = "user", "assistant", "system"
SHAPES = {
    "openorca": (
        ORCA,
        [
            [(USER, "Why is the sky blue?\nKeep it short."), (ASSISTANT, ORCA[0]["response"])],
            [(USER, "Translate: Hund"), (ASSISTANT, "dog")],
        ],
    ),
    "openorca with its system prompts": (
        ORCA,
        [
            [
                (SYSTEM, "You explain things to a child."),
                (USER, "Why is the sky blue?\nKeep it short."),
                (ASSISTANT, ORCA[0]["response"]),
            ],
            [(USER, "Translate: Hund"), (ASSISTANT, "dog")],
        ],
    ),
    "lima": (
        LIMA,
        [
            [(USER, "How do I boil an egg?"), (ASSISTANT, "Eight minutes in boiling water.")],
            [
                (USER, "Name a bird."),
                (ASSISTANT, "A wren."),
                (USER, "Another?"),
                (ASSISTANT, "An owl."),
            ],
            [(USER, "A question of the test set")],
        ],
    ),
    "wizardlm": (
        WIZARD,
        [
            [
                (USER, "Sort 3, 1, 2 and explain each step."),
                (ASSISTANT, "1, 2, 3. The smallest goes first."),
            ]
        ],
    ),
    "alpaca": (
        ALPACA,
        [
            [(USER, "Add the numbers.\n2 and 3"), (ASSISTANT, "5")],
            [(USER, "Name a prime."), (ASSISTANT, "7")],
        ],
    ),
    "sharegpt": (
        SHAREGPT,
        [
            [
                (SYSTEM, "Be brief."),
                (USER, "Hi"),
                (ASSISTANT, "Hello."),
                (USER, "Bye"),
                (ASSISTANT, "Goodbye."),
            ]
        ],
    ),
}


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_packed(path, rows):
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def write_json(path, rows):
    path.write_text(json.dumps(rows), encoding="utf-8")


def write_parquet(path, rows):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)


FILES = {
    "rows.jsonl": write_jsonl,
    "rows.jsonl.gz": write_packed,
    "rows.json": write_json,
    "rows.parquet": write_parquet,
}


def documents_of(path, fields):
    aside = []
    corpus = CorpusConfig(path=str(path), fields=FieldsConfig(**fields), convert="conversation")
    return list(read(corpus, "general", set_aside=aside.append)), aside


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FILES)
def test_a_published_shape_is_read_by_its_fields(tmp_path, shape, name):
    rows, expected = SHAPES[shape]
    FILES[name](tmp_path / name, rows)
    documents, aside = documents_of(tmp_path / name, FIELDS[shape])
    assert [[(turn.role, turn.text) for turn in d.turns] for d in documents] == expected
    assert [item.kind for item in aside] == (["empty turn"] if shape == "sharegpt" else [])
    if "id" in FIELDS[shape]:
        key = FIELDS[shape]["id"]
        assert [d.meta["source_id"] for d in documents] == [r[key] for r in rows[: len(documents)]]


@pytest.mark.parametrize("shape", ["lima", "wizardlm", "openorca"])
def test_a_folder_saved_from_the_hub_is_read(tmp_path, shape):
    import datasets

    rows, expected = SHAPES[shape]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "set"))
    documents, _ = documents_of(tmp_path / "set", FIELDS[shape])
    assert [[(turn.role, turn.text) for turn in d.turns] for d in documents] == expected


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(made_tokenizers.sentencepiece_model(tmp_path_factory.mktemp("sp")))


def test_as_text_an_instruction_is_question_space_response(tmp_path, tokenizer):
    write_jsonl(tmp_path / "orca.jsonl", ORCA)
    [first, second], _ = documents_of(tmp_path / "orca.jsonl", FIELDS["openorca"])
    question, response = ORCA[0]["question"], ORCA[0]["response"]
    assert render(first.turns, ChatConfig(), tokenizer) == f"{question} {response}"
    assert render(second.turns, ChatConfig(), tokenizer) == "Translate: Hund dog"
    [encoded] = encode_documents([second], tokenizer, ChatConfig(), add_bos=False, add_eos=True)
    assert encoded.tokens.tolist() == [*tokenizer.encode("Translate: Hund dog"), tokenizer.eos_id]
    assert encoded.supervised[1:].all()


def test_as_text_exchanges_are_apart_by_a_blank_line(tmp_path, tokenizer):
    write_jsonl(tmp_path / "rows.jsonl", LIMA[1:2])
    [document], _ = documents_of(tmp_path / "rows.jsonl", FIELDS["lima"])
    text = render(document.turns, ChatConfig(), tokenizer)
    assert text == "Name a bird. A wren.\n\nAnother? An owl."
    write_jsonl(tmp_path / "rows.jsonl", SHAREGPT[:1])
    [document], _ = documents_of(tmp_path / "rows.jsonl", FIELDS["sharegpt"])
    text = render(document.turns, ChatConfig(), tokenizer)
    assert text == "Be brief.\n\nHi Hello.\n\nBye Goodbye."
