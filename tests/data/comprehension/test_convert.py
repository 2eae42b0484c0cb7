"""The stage: what goes in comes out, fits, is tokenized once, and depends on nothing else."""

import json
import os
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data.chat import encode_documents, render
from data.comprehension.compose import ask, compose
from data.comprehension.config import ComprehensionConfig
from data.comprehension.convert import converter
from data.comprehension.system_prompts import system_prompt
from data.comprehension.templates import load_templates
from data.config import ChatConfig
from data.document import Document, Turn, document_id
from data.tally import Tally
from data.tokenizer import load_tokenizer
from tests.data import made_tokenizers
from tests.data.comprehension.made import BODY, PASSAGE, TASKS, TEXT, TITLE

GOLDEN = Path(__file__).parent / "golden"
ENDS = {"add_bos": True, "add_eos": True}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(made_tokenizers.sentencepiece_model(tmp_path_factory.mktemp("sp")))


def document(text, title="", language="en", place="made:1", **meta):
    turns = (Turn("text", f"{title}\n{text}" if title else text),)
    known = {"title": title} if title else {}
    return Document(document_id(turns), turns, place, known | {"language": language} | meta)


def stage(tokenizer, tally=None, seq_len=2048, chat=ChatConfig(), **settings):  # noqa: B008
    config = ComprehensionConfig.model_validate(settings)
    return converter(
        config,
        tokenizer=tokenizer,
        vocabulary=None,
        seq_len=seq_len,
        chat=chat,
        tally=tally or Tally("articles"),
        **ENDS,
    )


WORDS = [
    "cells",
    "tumour",
    "gene",
    "therapy",
    "patients",
    "blood",
    "protein",
    "dose",
    "risk",
    "study",
    "growth",
    "tissue",
]


def prose(paragraphs, seed=0, heading=None):
    """Made paragraphs of sentences, some of which are related by connectives."""
    rng = random.Random(seed)
    made = []
    for n in range(paragraphs):
        sentences = []
        for _ in range(6):
            words = [rng.choice(WORDS) for _ in range(rng.randint(4, 9))]
            start = rng.choice(
                ["The", "However, the", "Therefore, the", "Most", "In addition, the"]
            )
            sentences.append(f"{start} {' '.join(words)} is high in {rng.choice(WORDS)}.")
        made.append((f"{heading} {n + 1}\n\n" if heading else "") + " ".join(sentences))
    return "\n\n".join(made)


def rejoined(parent, parts):
    """The parent's text as its finished texts hold it; a title asked for is put back."""
    text = "\n\n".join(turn.text for turn in parent.turns)
    whole = []
    for part in parts:
        pieces = [part.turns[t].text[low:high] for t, low, high, _ in part.meta["read"]]
        start, stop = part.meta["span"]
        at = part.meta["read"][0][3]
        line = text[start : start + at]  # the title's line, where it is asked for
        if line.strip():
            asked = [task for task in part.meta["tasks"] if task["family"] == "title"]
            assert " ".join(line.split()) in asked[0]["question"] + asked[0]["answer"]
        assert line + "".join(pieces) == text[start:stop]
        whole.append(line + "".join(pieces))
    return "".join(whole)


@pytest.mark.parametrize("seq_len", [256, 512, 2048])
def test_long_documents_are_divided_and_nothing_is_lost(tokenizer, seq_len):
    tally = Tally("articles")
    documents = [document(prose(n, n), f"Report {n}") for n in (1, 3, 10, 30)]
    documents.append(document("x" * 9000, "No bounds"))
    documents.append(document("知道。" * 1500, "Another script"))
    finished = list(stage(tokenizer, tally, seq_len)(documents))
    parents = {d.id: d for d in documents}
    parts: dict[str, list[Document]] = {}
    for item in finished:
        parts.setdefault(item.meta["parent"], []).append(item)
    assert set(parts) == set(parents)
    for id, found in parts.items():
        assert rejoined(parents[id], found) == parents[id].turns[0].text
        if len(found) > 1:
            assert [item.id for item in found] == [f"{id}#{n}" for n in range(len(found))]
        else:
            assert found[0].id == id
    for item in finished:
        assert len(item.encoded.tokens) <= seq_len
    assert tally.counts.get("parts", 0) == sum(len(p) for p in parts.values() if len(p) > 1)
    if seq_len == 256:
        assert tally.counts["tasks_left_out"]["does not fit"] > 0


def test_what_fits_is_left_whole_and_its_tasks_counted(tokenizer):
    tally = Tally("articles")
    [item] = stage(tokenizer, tally)([document(prose(2), "Report")])
    counts = Counter(task["family"] for task in item.meta["tasks"])
    assert tally.counts["tasks"] == counts
    assert sum(tally.counts["labels"].values()) == sum(counts.values())
    assert tally.counts["layouts"] == {item.meta["layout"]: 1}
    assert item.meta["title"] == "Report"
    assert item.meta["span"] == [0, len(item.meta["title"]) + 1 + len(prose(2))]


def test_tokens_are_handed_on_and_are_those_of_the_finished_text(tokenizer, monkeypatch):
    documents = [document(prose(n, n), f"Report {n}") for n in (1, 2, 12)]
    texts: Counter[str] = Counter()
    encode = tokenizer.encode_batch

    def counting(batch):
        texts.update(text for text in batch)
        return encode(batch)

    monkeypatch.setattr(tokenizer, "encode_batch", counting)
    finished = list(stage(tokenizer, seq_len=2048)(documents))
    encoded = encode_documents(finished, tokenizer, ChatConfig(), **ENDS)
    whole = [item.turns[0].text for item in finished]
    assert [texts[text] for text in whole] == [1] * len(whole)
    monkeypatch.undo()
    plain = [Document(d.id, d.turns, d.source, d.meta) for d in finished]
    for known, fresh in zip(
        encoded, encode_documents(plain, tokenizer, ChatConfig(), **ENDS), strict=True
    ):
        assert np.array_equal(known.tokens, fresh.tokens)
        assert np.array_equal(known.supervised, fresh.supervised)


def test_neither_order_nor_company_nor_batches_change_a_text(tokenizer, monkeypatch):
    documents = [document(prose(n % 7 + 1, n), f"Report {n}") for n in range(25)]
    alone = [item.to_json() for d in documents for item in stage(tokenizer, seq_len=512)([d])]
    monkeypatch.setattr("data.comprehension.convert.BATCH_BYTES", 3000)
    backwards = [i.to_json() for i in stage(tokenizer, seq_len=512)(documents[::-1])]
    assert sorted(alone) == sorted(backwards)
    monkeypatch.undo()
    assert [item.to_json() for item in stage(tokenizer, seq_len=512)(documents)] == alone


def test_a_document_of_another_language_stays_raw(tokenizer):
    tally = Tally("articles")
    documents = [
        document("Le sang est rouge. Donc il se voit.", language="fr"),
        Document("x", (Turn("text", "No language told. It stays."),), "made:2", {}),
        document(""),
        document("  \n "),
        document("One line"),
        document("", "Only a title and nothing under it"),
    ]
    assert list(stage(tokenizer, tally)(documents)) == documents
    assert tally.counts == {
        "raw": {"language: fr": 1, "language not told": 1, "empty": 2, "nothing to ask": 2}
    }


def test_the_recipes_language_goes_before_what_was_told(tokenizer):
    [item] = stage(tokenizer, language="de")([document(TEXT, language="en")])
    asked = [frame.before for frame in load_templates("de").frames["completion"]]
    assert item.meta["layout"] != "completion" or item.turns[0].text.startswith(tuple(asked))
    domains = {"domain": {"en": "ZOOLOGY"}, "language": "auto"}
    texts = [
        stage(tokenizer, **domains)([document(f"{TEXT} {n}", language="en")]) for n in range(12)
    ]
    assert any("ZOOLOGY" in item.turns[0].text for texts_ in texts for item in texts_)
    texts = [
        stage(tokenizer, **domains)([document(f"{TEXT} {n}", language="de")]) for n in range(12)
    ]
    assert not any("ZOOLOGY" in item.turns[0].text for texts_ in texts for item in texts_)


def test_the_title_is_the_first_line_where_the_recipe_says_so(tokenizer):
    layout = {"title": 1, "completion": 0, "both": 0, "neither": 0}
    [item] = stage(tokenizer, title="first_line", layout=layout)([document(TEXT)])
    [task] = [task for task in item.meta["tasks"] if task["family"] == "title"]
    assert TITLE in task["question"] + task["answer"]
    assert task["source_spans"] in ([[0, len(TITLE)]], [[len(TITLE) + 1, len(TEXT)]])
    [item] = stage(tokenizer, layout=layout)([document(TEXT)])
    assert not [task for task in item.meta["tasks"] if task["family"] == "title"]
    spaced = document(f" {TITLE.replace(' ', '  ')} \n{BODY}")
    spaced.meta["title"] = TITLE  # its line is found whatever cleaning did to the spaces
    [item] = stage(tokenizer, layout=layout)([spaced])
    assert item.meta["read"][0][3] == spaced.turns[0].text.index("\n") + 1
    long = "word " * 100 + "\n" + BODY
    [item] = stage(tokenizer, title="first_line", layout=layout)([document(long)])
    assert not [task for task in item.meta["tasks"] if task["family"] == "title"]


def test_a_conversation_is_the_recipes_mistake(tokenizer):
    turns = (Turn("user", "Why?"), Turn("assistant", "Because."))
    with pytest.raises(ValueError, match=r"corpora\.articles\.convert.*x:7 is a conversation"):
        list(stage(tokenizer)([Document("1", turns, "x:7", {"language": "en"})]))


def test_rows_too_short_for_anything_are_an_error(tokenizer):
    with pytest.raises(ValueError, match="seq_len: 8 tokens are too few"):
        list(stage(tokenizer, seq_len=8)([document(prose(1), "Report")]))


def test_opinions_are_read_section_by_section(tokenizer):
    heads = ["I. BACKGROUND", "II. DISCUSSION", "III. CONCLUSION"]
    text = "\n\n".join(f"{head}\n\n{prose(3, n)}" for n, head in enumerate(heads))
    opinion = document(text, "SMITH v. JONES")
    layout = {"title": 1, "completion": 0, "both": 0, "neither": 0}
    finished = list(stage(tokenizer, sections="always", layout=layout)([opinion]))
    assert rejoined(opinion, finished) == opinion.turns[0].text
    assert len(finished) == 3
    titles = [
        task["question"] + task["answer"]
        for item in finished
        for task in item.meta["tasks"]
        if task["family"] == "title"
    ]
    assert "SMITH v. JONES" in titles[0]
    assert ["DISCUSSION" in titles[1], "CONCLUSION" in titles[2]] == [True, True]
    assert [("section" in item.meta) for item in finished] == [False, True, True]
    [whole] = stage(tokenizer, sections="long", seq_len=8192)([opinion])
    assert whole.id == opinion.id
    [*parts] = stage(tokenizer, sections="never", seq_len=1024)([opinion])
    assert not any("section" in item.meta for item in parts)


ODD = {
    "spaces": "a " + " " * 40000 + "b",
    "lines": "a\n" * 20000,
    "blank lines": "\n" * 40000 + "x",
    "leader dots": "." * 40000,
    "stops": ". " * 20000,
    "one word": "x" * 40000,
    "quotes": '"' * 40000,
    "headings": "RESULTS\n" * 5000,
    "connectives": "However, " * 4000,
    "characters": "知" * 13000,
    "emoji": "🙂" * 10000,
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("sections", ["long", "always"])
def test_odd_texts_fit_and_lose_nothing(tokenizer, name, sections):
    odd = document(ODD[name])
    settings = {"sections": sections, "title": "first_line"}
    parts = list(stage(tokenizer, seq_len=1024, **settings)([odd]))
    assert rejoined(odd, parts) == ODD[name]
    assert all(len(part.encoded.tokens) <= 1024 for part in parts)


CHINESE = """高血压是指动脉血压持续升高的慢性疾病。长期血压升高会损害心脏和血管，因此患者应当定期测量血压。
研究共纳入328名患者，平均年龄为56岁。药物可以降低血压，但是部分患者会出现头晕等不良反应。
由于肾脏参与水和盐的代谢，肾功能不全的患者更容易出现血压升高。此外，肥胖也会增加发病的风险。
也就是说，控制体重有助于降低血压。本文主要介绍高血压的诊断和治疗方法。"""


def test_a_chinese_text_is_composed_in_chinese(tokenizer):
    finished = [
        item
        for n in range(12)
        for item in stage(tokenizer, domain={"zh": "医学", "en": "medicine"})(
            [document(CHINESE + "　" * n, "高血压的防治", language="zh")]
        )
    ]
    families = {task["family"] for item in finished for task in item.meta["tasks"]}
    assert families >= {"nli", "cause", "paraphrase", "definition", "topic", "title", "completion"}
    for item in finished:
        text = item.turns[0].text
        assert not any(character.isascii() and character.isalpha() for character in text)
        assert " " not in text.replace("\n- ", "\n")  # options are a list


# --- conversations --------------------------------------------------------------------------------

ARTICLE = document(BODY, TITLE)


def conversation(tokenizer, chat, **settings):
    [item] = stage(tokenizer, chat=chat, form="chat", domain="biology", **settings)([ARTICLE])
    return item


def test_llama2_chat_is_byte_for_byte_the_published_form(tokenizer):
    config = ComprehensionConfig(language="en", form="chat")
    prompt = system_prompt("llama2")
    assert len(prompt) == 510
    assert "being safe.  Your answers" in prompt
    assert (prompt[0], prompt[-1]) == ("\n", "\n")
    templates = load_templates("en", "biology")
    tasks = ask(TASKS, "ice", TEXT, templates, config)
    composed = compose(PASSAGE, tasks, templates, config, prompt)
    text = render(composed.turns, ChatConfig(template="llama2"), tokenizer)
    assert text.startswith("<s>[INST] <<SYS>>" + prompt + "<</SYS>>\n\n")
    assert text.count("<<SYS>>") == 1
    first, *turns = text.split("<s>")
    assert first == ""
    assert len(turns) == text.count("</s>") == len(composed.tasks)
    for turn in turns:
        assert turn.startswith("[INST] ")
        assert turn.endswith(" </s>")
        assert turn.count(" [/INST] ") == 1
    path = GOLDEN / "llama2_chat.txt"
    if os.environ.get("LECTERN_WRITE_GOLDEN"):
        path.write_text(text + "\n", encoding="utf-8")
    assert text == path.read_text(encoding="utf-8").removesuffix("\n")


def test_the_loss_is_on_the_assistants_turns_or_on_all(tokenizer):
    item = conversation(tokenizer, ChatConfig(template="llama2", train_on="assistant"))
    tokens, supervised = item.encoded.tokens, item.encoded.supervised
    said = tokenizer.decode(tokens[supervised])
    for turn in item.turns:
        assert (turn.text in said) == (turn.role == "assistant")
    everything = conversation(tokenizer, ChatConfig(template="llama2", train_on="all"))
    assert everything.encoded.supervised[1:].all()
    assert not everything.encoded.supervised[0]


def test_llama3_and_other_templates(tokenizer, tmp_path):
    llama3 = load_tokenizer(made_tokenizers.llama3(tmp_path / "llama3"))
    chat = ChatConfig(template="llama3", train_on="assistant")
    item = conversation(llama3, chat, system="Answer from the text alone.")
    assert [turn.role for turn in item.turns[:3]] == ["system", "user", "assistant"]
    text = llama3.decode(item.encoded.tokens, keep_special=True)
    assert text.startswith(
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nAnswer from the text"
    )
    plain = conversation(tokenizer, ChatConfig())
    question, answer = plain.turns[0].text, plain.turns[1].text
    assert render(plain.turns, ChatConfig(), tokenizer).startswith(f"{question} {answer}")


def test_places_in_a_conversation_count_the_system_turn(tokenizer):
    item = conversation(tokenizer, ChatConfig(template="llama2"), system="llama2")
    for task in item.meta["tasks"]:
        (asked, low, high), (said, start, stop) = task["places"]
        assert item.turns[asked].role == "user"
        assert item.turns[asked].text[low:high] == task["question"]
        assert item.turns[said].role == "assistant"
        assert item.turns[said].text[start:stop] == task["answer"]
    for turn, low, high, at in item.meta["read"]:
        text = ARTICLE.turns[0].text
        assert item.turns[turn].text[low:high] == text[at : at + high - low]


def test_long_conversations_fit_as_well(tokenizer):
    chat = ChatConfig(template="llama2")
    documents = [document(prose(n, n), f"Report {n}") for n in (1, 4, 12)]
    finished = list(stage(tokenizer, chat=chat, seq_len=700, form="chat")(documents))
    assert len(finished) > 5
    assert all(len(item.encoded.tokens) <= 700 for item in finished)
    assert all(item.turns[-1].role in ("assistant", "text") for item in finished)


def test_a_system_prompt_that_is_one_unknown_word_is_a_mistake(tokenizer):
    with pytest.raises(ValueError, match="comprehension.system: 'lama2'"):
        stage(tokenizer, form="chat", system="lama2")


def test_a_text_that_the_template_refuses_passes_without_tokens(tokenizer):
    broken = document(BODY + " \ufdd3", TITLE)
    chat = ChatConfig(template="llama2")
    items = list(stage(tokenizer, chat=chat, form="chat")([broken, ARTICLE]))
    assert [hasattr(item, "encoded") for item in items] == [False, True]


# --- real text ------------------------------------------------------------------------------------


def test_nothing_of_real_pages_is_lost(realdata):
    import gzip

    tokenizer = load_tokenizer(realdata / "llama2-tokenizer.model")
    documents = []
    with gzip.open(realdata / "medquad.jsonl.gz", "rt", encoding="utf-8") as file:
        for n, line in enumerate(file):
            row = json.loads(line)
            if n % 40 == 0 and row["answer"]:
                documents.append(document(row["answer"], row["focus"] or "", place=f"medquad:{n}"))
    tally = Tally("articles")
    parts: dict[str, list[Document]] = {}
    for item in stage(tokenizer, tally, seq_len=1024)(documents):
        assert len(item.encoded.tokens) <= 1024
        parts.setdefault(item.meta.get("parent", item.id), []).append(item)
    assert any(len(found) > 1 for found in parts.values())
    for parent in documents:
        found = parts[parent.id]
        if "read" in found[0].meta:
            whole = [item for item in found if item.meta["span"][0] == 0]
            # Equal pages come as often as they are in the file.
            assert rejoined(parent, found[: len(found) // len(whole)]) == parent.turns[0].text
    assert sum(tally.counts["tasks"].values()) > len(documents)
