"""Pages and abstracts to texts with pairs: every answer is in its text, and nothing is boilerplate."""

import gzip
import json
import os
from pathlib import Path

import pytest

from data.document import Document, Turn, document_id
from data.synthesis.format import read_task
from data.synthesis.pages import (
    PassagesConfig,
    abstract_passages,
    main,
    mined_passages,
    page_passages,
    paragraphs,
)

LIMITS = PassagesConfig(words=40, paragraph_words=20, min_paragraph_words=4, answer_words=12)


def exchange(question: str, answer: str, page: str = "p", title: str = "Asthma") -> Document:
    turns = (Turn("system", title), Turn("user", question), Turn("assistant", answer))
    return Document(document_id(turns), turns, "test", {"group": page})


ASTHMA = [
    exchange(
        "What is (are) Asthma ?",
        "The signs of asthma may include these:\nAsthma is a disease of the airways. They swell and "
        "narrow. It often begins in childhood.\n                \nA second paragraph that is not shown.",
    ),
    exchange(
        "What are the symptoms of Asthma? ?",
        "What are the symptoms?  Wheezing and coughing are the most common symptoms of it.",
    ),
    exchange("What is (are) Asthma?", "The same question once more is left out of the page."),
    exchange("How is it treated ?", "Topics"),
    exchange(
        "Is it inherited ?",
        "Many genes have a part in it, none of them alone, as studies of twins show again and "
        "again in every country where they were made.",
    ),
    exchange("What causes it ?", "Smoke, dust and pollen can all set off an attack of it."),
]


def test_answers_are_the_first_sentences_of_what_is_shown_under_the_title():
    (passage,) = page_passages(ASTHMA, LIMITS, "pages")
    assert passage.text == (
        "Asthma\n"
        "Asthma is a disease of the airways. They swell and narrow. It often begins in childhood.\n"
        "Wheezing and coughing are the most common symptoms of it.\n"
        "Smoke, dust and pollen can all set off an attack of it."
    )
    assert [(pair.question, pair.answer) for pair in passage.pairs] == [
        ("What is (are) Asthma?", "Asthma is a disease of the airways. They swell and narrow."),
        (
            "What are the symptoms of Asthma?",
            "Wheezing and coughing are the most common symptoms of it.",
        ),
        ("What causes it?", "Smoke, dust and pollen can all set off an attack of it."),
    ]
    assert passage.to_row()["QA_list"][2] == {
        "Q": "What causes it?",
        "A": "Smoke, dust and pollen can all set off an attack of it.",
    }


def test_a_page_is_cut_between_answers_where_its_text_is_full():
    limits = LIMITS.model_copy(update={"words": 24, "min_pairs": 1})
    texts = [passage.text for passage in page_passages(ASTHMA, limits, "pages")]
    assert len(texts) == 2
    assert all(text.startswith("Asthma\n") for text in texts)
    assert all(len(text.split()) <= 1 + 24 for text in texts)
    assert not list(page_passages(ASTHMA, limits.model_copy(update={"min_pairs": 3}), "pages"))


def test_answers_that_many_pages_share_are_left_out():
    documents = []
    for i, name in enumerate(["Gout", "Mumps", "Lupus"]):
        documents += [
            exchange("What is it ?", f"{name} is known by its {i} signs.", name, name),
            exchange("Who is at risk ?", f"Nobody knows the risk of {name} so far.", name, name),
            exchange("Is it common ?", f"It is as common as {i} in ten.", name, name),
        ]
    limits = LIMITS.model_copy(update={"shared_by": 2})
    for passage in page_passages(documents, limits, "pages"):
        assert [pair.question for pair in passage.pairs] == ["What is it?", "Is it common?"]
    limits = LIMITS.model_copy(update={"shared_by": 3})
    assert {len(p.pairs) for p in page_passages(documents, limits, "pages")} == {3}


def test_paragraphs_are_found_by_line_breaks_kept_or_lost():
    text = "Key Points\n      - One.    - Two.  \n\xa0\n\nIt ends.  Another begins.  but not here"
    assert paragraphs(text) == [
        "Key Points",
        "- One. - Two.",
        "It ends.",
        "Another begins. but not here",
    ]


OPTIONS = ("yes", "no", "maybe")


def abstract(decision: str, question: str = "Does it work?") -> Document:
    turns = (
        Turn(
            "system",
            "Old news comes first here. It was measured in two groups of rats.\n\nIt was small.",
        ),
        Turn("user", question),
        Turn("assistant", f"It works in rats. More is needed.\n\n{decision}"),
    )
    return Document(document_id(turns), turns, "made.jsonl:1", {"group": "1", "dataset": "train"})


def test_an_abstract_is_asked_in_two_of_three_ways():
    limits = LIMITS.model_copy(update={"words": 12})
    told = set()
    for i in range(20):
        (passage,) = abstract_passages(
            [abstract("maybe", f"Does it work in {i} rats?")], OPTIONS, limits, "abstracts"
        )
        assert passage.text == "It was measured in two groups of rats. It was small."
        tasks = [read_task(pair) for pair in passage.pairs]
        told.add(tuple(task.shape for task in tasks))
        for task in tasks:
            answer = "It works in rats. More is needed." if task.shape == "free" else "maybe"
            assert task.answer == answer
            assert task.options == (() if task.shape == "free" else OPTIONS)
    assert told == {
        ("free", "options"),
        ("free", "reasoned options"),
        ("options", "reasoned options"),
    }


def test_mined_passages_are_whole_paragraphs_with_pairs_found_in_them():
    text = (
        "Insulin is defined as a hormone that lowers the sugar in the blood. It is made in the "
        "pancreas.\nThe pancreas is often inflamed. Therefore, it makes too little of the hormone.\n"
        + "A paragraph that is far too long for a passage is left out of it. "
        * 5
    )
    limits = LIMITS.model_copy(update={"min_mined_pairs": 1, "answer_words": 20})
    (passage,) = mined_passages([exchange("What ?", text, "page 7")], limits, "en", "mined")
    assert passage.text == "\n".join(text.split("\n")[:2])
    assert passage.group == "page 7"
    assert {pair.answer for pair in passage.pairs} >= {
        "A hormone that lowers the sugar in the blood."
    }


def test_a_decision_that_is_no_option_is_the_recipes_mistake():
    with pytest.raises(ValueError, match=r"options: made.jsonl:1 decides 'perhaps'"):
        list(abstract_passages([abstract("perhaps")], ("yes", "no"), LIMITS, "abstracts"))


REALDATA = os.environ.get("LECTERN_REALDATA")


@pytest.mark.skipif(REALDATA is None, reason="LECTERN_REALDATA is not set")
def test_of_the_real_pages_every_answer_is_in_its_text_and_no_test_row_of_the_benchmark(
    tmp_path, root, monkeypatch
):
    monkeypatch.chdir(root)
    main(["configs/instruct/proof_pages.yaml", f"out_dir={tmp_path}"])
    rows = [json.loads(line) for line in (tmp_path / "pages.jsonl").open()]
    assert len(rows) > 1400
    for row in rows:
        assert all(pair["A"] in row["context"] for pair in row["QA_list"])
        assert len({pair["Q"] for pair in row["QA_list"]}) == len(row["QA_list"]) >= 3
    with gzip.open(Path(REALDATA or "") / "pubmedqa_labeled.jsonl.gz", "rt") as file:
        split = {row["pmid"]: row["split"] for row in map(json.loads, file)}
    for name, least in (("recombined", 15_999), ("quotations", 5000), ("lists", 15_000)):
        assert len((tmp_path / f"{name}.jsonl").read_text().splitlines()) > least
    assert len((tmp_path / "mined.jsonl").read_text().splitlines()) > 500
    rows = [json.loads(line) for line in (tmp_path / "abstracts.jsonl").open()]
    assert len(rows) > 250
    assert {split[row["group"]] for row in rows} == {"train"}
