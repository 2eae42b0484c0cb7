"""Language, quality, personal data; the stages in order, and that they count what they do."""

import gzip
import json
import random
from typing import Any

import pytest

from data.clean.config import CleanConfig, LanguageConfig, PersonalConfig, QualityConfig
from data.clean.language import identifier
from data.clean.personal import masker
from data.clean.quality import judge
from data.clean.stages import cleaner, cleaners
from data.document import Document
from data.tally import Tally
from tests.data.clean.judged import conversation, text

ENGLISH = (
    "Asthma is a disease of the airways. It makes breathing hard, because the airways swell and "
    "narrow. People with asthma wheeze and cough, most of all at night. Doctors treat it with "
    "drugs that are inhaled, and with advice about what to avoid."
)
CHINESE = "哮喘是一种气道疾病。气道肿胀变窄，使呼吸困难。患者会喘息和咳嗽，夜间尤其明显。医生用吸入药物治疗。"
GERMAN = "Asthma ist eine Krankheit der Atemwege. Sie schwellen an und werden eng, das Atmen fällt schwer."


def reason(content: str, **config: Any) -> str | None:
    found = judge(QualityConfig(**config))(text(content))
    return found and found.partition(":")[0]


# --- language -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("content", "code"), [(ENGLISH, "en"), (CHINESE, "zh"), (GERMAN, "de")])
def test_the_language_is_kept_with_the_document(content, code):
    for document in (text(content), conversation(content[:40], content[40:])):
        done, dropped = identifier(LanguageConfig())(document)
        assert (done.meta["language"], dropped) == (code, None)
        assert done.id == document.id


def test_languages_are_dropped_only_when_some_are_named():
    identify = identifier(LanguageConfig(keep=("en",)))
    assert identify(text(GERMAN))[1] == "de"
    assert identify(text(ENGLISH))[1] is None
    assert identify(text("12 345 !"))[1] is None  # too little to tell


def test_the_beginning_decides_and_spaces_before_it_do_not():
    document = text(" \n" * 5000 + ENGLISH + CHINESE * 50)
    assert identifier(LanguageConfig(characters=200))(document)[0].meta["language"] == "en"


# --- quality --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sound",
    [
        ENGLISH,
        CHINESE,
        GERMAN,
        "Yes.",
        "血压",
        "42",
        "No. " * 8,
        "- one\n- two\n- three\n" * 3 + ENGLISH,
        "Ingredients:\n" + "\n".join(f"- {i} g of a thing" for i in range(40)),
        "IN THE SUPREME COURT\n\nNo. 12-345\n\nPER CURIAM.\n\n" + ENGLISH,
        "def f(x):\n    return x + 1\n" * 4 + ENGLISH,
        "Deck the halls with boughs of holly, fa la la la la, la la la la. " * 4,
        "p < 0.001 (95 % CI 1.2-3.4), n = 120; HR 0.81 (0.70-0.93). " * 6 + ENGLISH,
        "".join(random.Random(0).choices(["ภาษา", "ไทย", "เขียน", "โดย", "คำ", "ยา", "โรค"], k=200)),
    ],
)
def test_sound_text_passes_by_default(sound):
    assert reason(sound) is None


@pytest.mark.parametrize(
    ("debris", "why"),
    [
        ("", "too few words"),
        (" \n ", "too few words"),
        ("!!! ??? ***", "too few words"),
        ("x" * 5000, "words too long"),
        ("a b c d e f " * 50, "words too short"),
        ("1234.56 789.01 2345.67 " * 50, "few letters"),
        ("# #word " * 40, "many symbols"),
        ("Chapter one ...... 12\n" * 30, "many symbols"),
        ("it goes on…\nand on in words and words and more…\n" * 20, "unfinished lines"),
        ("The same line again and again.\n" * 30, "repeated lines"),
        ("buy now buy now " * 60, "one repeated phrase"),
        (
            " ".join(f"word{i}" for i in range(20)) * 1 + " " + (ENGLISH + " ") * 15,
            "repeated passages",
        ),
    ],
)
def test_debris_goes_under_its_rule(debris, why):
    assert reason(debris) == why


@pytest.mark.parametrize(
    ("content", "config", "why"),
    [
        (ENGLISH, {"min_words": 50}, "too few words"),
        (ENGLISH, {"max_words": 10}, "too many words"),
        ("".join(f"- thing {i} of some {i * i}\n" for i in range(20)), {"max_bullets": 0.9}, "bullet lists"),
        (GERMAN * 3, {"min_stop_words": 2}, "few stop words"),
        (ENGLISH.replace(".", "\n"), {"min_end_marks": 0.5}, "few sentence ends"),
        (ENGLISH, {"forbidden": ("ASTHMA is",)}, "forbidden phrase"),
        (ENGLISH + "\n\n" + ENGLISH, {"max_duplicate_paragraphs": 0.2, "max_duplicate_lines": None},
         "repeated paragraphs"),
    ],
)  # fmt: skip
def test_rules_that_are_off_by_default(content, config, why):
    assert reason(content) is None
    assert reason(content, **config) == why


def test_a_rule_that_is_null_is_off():
    line = "The same line again and again.\n" * 30
    off = {"max_duplicate_lines": None, "max_repeated_grams": None, "max_top_gram": None}
    assert reason(line, **off) is None


def test_conversations_are_judged_as_a_whole():
    assert judge(QualityConfig(min_words=5))(conversation("Is it so?", "Yes, it is.")) is None


# --- personal data --------------------------------------------------------------------------------

ALL = PersonalConfig(emails=True, phones=True, ids=True)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Write to jane.doe+x@mail.example.org, please.", "Write to [EMAIL], please."),
        ("Call (301) 555-0123 or 1-800-555-0199.", "Call [PHONE] or [PHONE]."),
        ("Tel. +49 30 1234567, +1 (301) 555 0123", "Tel. [PHONE], [PHONE]"),
        ("手机13812345678，电话010-12345678。", "手机[PHONE]，电话[PHONE]。"),
        ("SSN 123-45-6789.", "SSN [ID]."),
        ("身份证11010519491231002X", "身份证[ID]"),
        ("card 4111 1111 1111 1111 used", "card [ID] used"),
        ("IBAN DE89 3704 0044 0532 0130 00.", "IBAN [ID]."),
        ("from 192.168.10.1 today", "from [ID] today"),
    ],
)
def test_personal_data_is_masked_on_request(before, after):
    document, counts = masker(ALL)(text(before))
    assert document.turns[0].text == after
    assert sum(counts.values()) == after.count("[")
    assert masker(PersonalConfig())(text(before))[0].turns[0].text == before


@pytest.mark.parametrize(
    "fact",
    [
        "pH 7.35-7.45, 120/80 mmHg, doses of 10 20 30 40 50 60 mg",
        "NCT01234567, PMID 21645374, ISBN 978-3-16-148410-0, doi:10.1000/182",
        "between 1999-2003 and 2010-2014; 1,234,567 people; p = 0.00012345",
        "card 4111 1111 1111 1112, 12345678901234567890",
        "version 1.2.3.4.5 of 300.1.2.3; @handle; a @ b; x@y",
        "chr1:123456789-123456999 and 5'-ATG-3'; § 1983; 410 U.S. 113 (1973)",
    ],
)
def test_facts_are_no_personal_data(fact):
    assert masker(ALL)(text(fact))[0].turns[0].text == fact


# --- the stages -----------------------------------------------------------------------------------


def test_the_default_stages_and_what_they_count():
    tally = Tally("c")
    stages = cleaners(CleanConfig(), tally=tally)
    assert [stage.__name__ for stage in stages] == ["normalize", "language", "quality"]
    documents: Any = [text(ENGLISH + "  "), text(CHINESE), text("!!!"), text("x" * 5000)]
    for stage in stages:
        documents = stage(documents)
    kept = list(documents)
    assert [d.turns[0].text for d in kept] == [ENGLISH, CHINESE]
    assert tally.counts["removed"] == {"quality": {"too few words": 1, "words too long": 1}}
    assert tally.counts["cleaned"] == {"normalize": {"whitespace": 1}}
    assert tally.counts["languages"] == {"en": 1, "zh": 1} | tally.counts["languages"]
    lines = [json.loads(line) for line in tally.set_aside]
    assert {line["stage"] for line in lines} == {"quality"}
    assert {line["excerpt"] for line in lines} == {"!!!", "x" * 200}


def test_one_function_does_what_the_stages_do():
    config = CleanConfig.model_validate(
        {"language": {"keep": ["en"]}, "personal": {"emails": True}, "quality": {"min_words": 3}}
    )
    documents = [text(ENGLISH + " a@b.org "), text(GERMAN), text("Hi"), text("\u200b \n"),
                 conversation("What is it? ", ENGLISH)]  # fmt: skip
    tally, total = Tally("c"), Tally("c")
    left: Any = documents
    for stage in cleaners(config, tally=tally):
        left = stage(left)
    clean, one_by_one = cleaner(config), []
    for document in documents:
        done = clean(document)
        total.add(done.counts)
        if done.document is None:
            total.remove(document, done.stage, done.reason)
        else:
            one_by_one.append(done.document)
    assert list(left) == one_by_one
    assert tally.counts == total.counts
    assert total.counts["removed"] == {
        "language": {"de": 1}, "quality": {"too few words": 1}, "normalize": {"nothing left": 1},
    }  # fmt: skip


def test_everything_can_be_turned_off():
    off = {name: {"enabled": False} for name in ("normalize", "language", "quality")}
    assert cleaners(CleanConfig.model_validate(off), tally=Tally("c")) == []


def test_nothing_sound_is_lost_of_real_text(realdata):
    """Medical pages, abstracts, encyclopedia and web prose, instructions, Chinese ones too."""

    def rows(name: str) -> list[dict[str, Any]]:
        with gzip.open(realdata / name, "rt") as file:
            return json.load(file) if ".json." in name else [json.loads(line) for line in file]

    documents: list[Document] = []
    documents += [
        text(row["answer"]) for row in rows("medquad.jsonl.gz")[::30] if row["answer"].strip()
    ]
    documents += [
        text("\n\n".join(row["contexts"])) for row in rows("pubmedqa_labeled.jsonl.gz")[::5]
    ]
    documents += [text(row["text"]) for row in rows("general/c4.jsonl.gz")]
    for name in ("alpaca_en", "alpaca_zh", "math_instructions"):
        documents += [
            conversation(row["instruction"], row["output"])
            for row in rows(f"general/{name}.json.gz")[::4]
            if row["output"].strip()
        ]
    clean = cleaner(CleanConfig())
    gone = [(done.reason, d) for d in documents if (done := clean(d)).document is None]
    assert not gone
