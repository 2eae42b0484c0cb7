"""Lists and labelled sections become one text, with the labels as titles."""

import json

import pytest

from data.config import CorpusConfig, FieldsConfig, PrepareConfig
from data.sources import read


def collect(tmp_path, rows, **fields):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = CorpusConfig(path=str(path), fields=FieldsConfig.model_validate(fields))
    aside = []
    texts = [d.turns[0].text for d in read(corpus, "corpus", set_aside=aside.append)]
    return texts, [item.reason for item in aside]


SECTIONED = "AIM\nTo see.\n\nRESULT\nSeen."
OBJECTS = [{"label": "AIM", "text": "To see."}, {"label": "RESULT", "text": "Seen."}]


@pytest.mark.parametrize("key", ["title", "label", "heading"])
def test_objects_with_a_title_and_a_text_are_sections(tmp_path, key):
    row = {"deep": {"parts": [{key: o["label"], "text": o["text"], "n": 1} for o in OBJECTS]}}
    assert collect(tmp_path, [row], text="deep.parts") == ([SECTIONED], [])


@pytest.mark.parametrize(
    ("row", "text"),
    [
        # PubMedQA: texts beside their labels.
        (
            {"contexts": ["To see.", "Seen."], "labels": ["AIM", "RESULT"]},
            {"each": "contexts", "title": "labels"},
        ),
        (
            {"c": {"contexts": ["To see.", "Seen."], "labels": ["AIM", "RESULT"]}},
            {"each": "c.contexts", "title": "c.labels"},
        ),
        # Objects with names of their own.
        (
            {"abstract": {"sections": [{"Label": o["label"], "Body": o["text"]} for o in OBJECTS]}},
            {"each": "abstract.sections", "title": "Label", "text": "Body"},
        ),
        (
            {"s": [{"meta": {"name": "AIM"}, "text": "To see."}, {"meta": {"name": "RESULT"}, "text": ["Seen."]}]},
            {"each": "s", "title": "meta.name"},
        ),
        # What tables and TFDS make of such a list: an object of lists.
        (
            {"s": {"type": ["AIM", "RESULT"], "text": ["To see.", "Seen."]}},
            {"each": "s", "title": "type"},
        ),
        ({"s": {"label": ["AIM", "RESULT"], "text": ["To see.", "Seen."]}}, "s"),
        ({"s": {"title": ["AIM", "RESULT"], "text": ["To see.", "Seen."]}}, {"each": "s"}),
    ],
)  # fmt: skip
def test_sections_in_every_shape(tmp_path, row, text):
    assert collect(tmp_path, [row], text=text) == ([SECTIONED], [])


def test_opinions_in_sections_of_their_own(tmp_path):
    row = {
        "case_name": "Rye v. Lane",
        "court": {"name": "Court of Appeal"},
        "date": "1999-04-01",
        "opinions": [
            {"type": "majority", "text": [{"heading": "I. Facts", "text": "A gate."}, {"heading": "II. Law", "text": "Open."}]},
            {"type": "dissent", "text": "I would not."},
        ],
    }  # fmt: skip
    fields = {"each": "opinions", "title": "type"}
    title = ["case_name", "court.name", "date"]
    assert collect(tmp_path, [row], text=fields, title=title)[0] == [
        "Rye v. Lane, Court of Appeal, 1999-04-01\n"
        "majority\nI. Facts\nA gate.\n\nII. Law\nOpen.\n\ndissent\nI would not."
    ]
    assert collect(tmp_path, [row | {"date": None}], text=fields, title=title)[0][0].startswith(
        "Rye v. Lane, Court of Appeal\nmajority"
    )


def test_several_texts_some_in_sections(tmp_path):
    row = {"lead": "First.", "parts": OBJECTS}
    assert collect(tmp_path, [row], text=["lead", {"each": "parts", "title": "label"}]) == (
        [f"First.\n\n{SECTIONED}"],
        [],
    )


def test_a_section_without_a_title_or_without_text(tmp_path):
    parts = [
        {"title": None, "text": "Bare."},
        {"title": "EMPTY", "text": " "},
        {"title": "Two\n lines", "text": "Kept."},
    ]
    assert collect(tmp_path, [{"p": parts}], text="p")[0] == ["Bare.\n\nTwo lines\nKept."]
    assert collect(tmp_path, [{"p": parts[1:2]}], text="p") == ([], ["empty document"])
    some = [{"p": [{"text": "Bare."}, {"title": "A", "text": "b"}]}]
    assert collect(tmp_path, some, text={"each": "p"})[0] == ["Bare.\n\nA\nb"]


def test_titles_that_do_not_go_with_the_texts_set_the_row_aside(tmp_path):
    good = {"c": ["a", "b"], "l": ["X", "Y"]}
    rows = [good, {"c": ["a", "b"], "l": ["X"]}, {"c": ["a"], "l": None}]
    texts, reasons = collect(tmp_path, rows, text={"each": "c", "title": "l"})
    assert texts == ["X\na\n\nY\nb"]
    assert [reason.split(":")[0] for reason in reasons] == [
        "sections and titles do not go together"
    ] * 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ({"each": "part"}, r"fields\.text: part: no field 'part'; there are: parts; did you mean"),
        ({"each": "parts", "title": "labl"}, r"fields\.text: labl: no field 'labl'; .*label"),
        ({"each": "parts", "title": "label", "text": "txt"}, r"no field 'txt'"),
    ],
)
def test_a_misspelt_path_is_an_error_that_names_it(tmp_path, text, says):
    with pytest.raises(ValueError, match=says):
        collect(tmp_path, [{"parts": OBJECTS}], text=text)


def test_objects_that_are_no_sections_are_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"fields type, text; name one .*\{each, title, text\}"):
        collect(tmp_path, [{"parts": [{"type": "x", "text": "y"}]}], text="parts")


def test_columns_of_sections_are_read_from_tables(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = {"c": [["To see.", "Seen."]], "l": [["AIM", "RESULT"]], "heavy": [b"\0" * 100]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    fields = FieldsConfig.model_validate({"text": {"each": "c", "title": "l"}})
    corpus = CorpusConfig(path=str(tmp_path), fields=fields)
    (document,) = read(corpus, "x", set_aside=pytest.fail)
    assert document.turns[0].text == SECTIONED


def test_a_recipe_can_say_it_in_yaml_and_on_the_command_line(tmp_path):
    from configs.load import load_recipe

    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "out_dir: x\ntrain_tokenizer: {}\ncorpora:\n  a:\n    path: p\n"
        "    fields: {text: {each: contexts, title: labels}}\n"
    )
    config = load_recipe(PrepareConfig, str(recipe))
    assert config.corpora["a"].fields.text.each == "contexts"
    config = load_recipe(PrepareConfig, str(recipe), ["corpora.a.fields.text=answer"])
    assert config.corpora["a"].fields.text == "answer"
    config = load_recipe(PrepareConfig, str(recipe), ["corpora.a.fields.text.title=l"])
    assert config.corpora["a"].fields.text.title == "l"


def test_pubmedqa_keeps_its_labels(realdata):
    fields = {"text": {"each": "contexts", "title": "labels"}, "id": "pmid"}
    corpus = CorpusConfig(
        path=str(realdata / "pubmedqa_labeled.jsonl.gz"), fields=FieldsConfig.model_validate(fields)
    )
    documents = list(read(corpus, "x", set_aside=pytest.fail))
    assert len(documents) == 1000
    first = documents[0].turns[0].text
    assert first.startswith("BACKGROUND\nProgrammed cell death")
    assert "\n\nRESULTS\nThe following paper" in first
