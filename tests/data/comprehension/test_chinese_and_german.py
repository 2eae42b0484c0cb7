"""A Chinese text that holds every family, and a German one, of our own writing."""

import re

import pytest

from data.comprehension.language import load_language
from data.comprehension.mine import mine
from data.comprehension.mined import Mined
from data.comprehension.vocabulary import Vocabulary, keywords_among, plain_pieces

CHINESE = """糖尿病概述

糖尿病是一种以慢性高血糖为特征的代谢性疾病。所谓血糖，是指血液中的葡萄糖。全国约有1.4亿名成年糖尿病患者。成年人的患病率为11.2%。本文介绍了糖尿病的病因、诊断标准和常用的治疗方法。

一、病因

患者的胰岛素分泌并未完全停止，但身体对胰岛素的反应明显减弱。肥胖者的脂肪组织会释放多种炎症因子。因此，控制体重有助于预防糖尿病。长期高血糖可导致视网膜病变和肾功能衰竭。由于胰岛素绝对缺乏，1型糖尿病患者必须终身注射胰岛素。许多患者没有明显症状，因为血糖升高是缓慢发生的。虽然遗传因素起着重要作用，但是生活方式的影响更大。

二、治疗

二甲双胍能够降低血糖，价格也比较低廉。此外，这种药物不容易引起低血糖。饮食控制是治疗的基础。换句话说，没有合理的饮食，任何药物都难以取得满意的效果。然而，不少患者难以长期坚持饮食控制。严重的胰岛素缺乏会引起酮症酸中毒，需要立即住院治疗。糖尿病患者应当定期检查血糖、血压和肾功能，以便及早发现并发症。"""

GERMAN = """Asthma

Asthma ist eine chronische Erkrankung der Atemwege, bei der sich die Bronchien verengen. Die \
Häufigkeit bei Erwachsenen beträgt etwa 5 Prozent. Dieser Artikel beschreibt die Ursachen und die \
Behandlung des Asthmas.

1. Ursachen

Die Krankheit verläuft meist mild, aber einige Patienten erleiden schwere Anfälle. Viele Kinder \
husten im Winter, denn die Luft in den Zimmern ist zu trocken. Die Pollen reizen die Schleimhaut, \
deshalb klagen viele Patienten im Frühjahr über Beschwerden. Rauchen führt zu Entzündungen der \
Bronchien.

2. Behandlung

Kortison hemmt die Entzündung der Bronchialschleimhaut. Außerdem: Die Zahl der Anfälle sinkt. \
Die Behandlung dauert oft ein Leben lang. Mit anderen Worten: Die Patienten brauchen Geduld."""

FAMILIES = {"nli", "cause", "paraphrase", "keyword", "definition", "topic", "question", "section"}
LABELS = {
    ("nli", "entail"),
    ("nli", "contradict"),
    ("nli", "neutral"),
    ("cause", "cause_effect"),
    ("cause", "effect_cause"),
    ("paraphrase", "similar"),
    ("paraphrase", "different"),
}


def pool(text: str, code: str, words: str) -> list[Mined]:
    vocabulary = Vocabulary(dict.fromkeys(words.split(), 3), code, "test")
    return mine(text, load_language(code), vocabulary)


@pytest.fixture(scope="module")
def chinese() -> list[Mined]:
    return pool(
        CHINESE, "zh", "糖尿病 胰岛素 血糖 代谢性 视网膜病变 肾功能 酮症酸中毒 并发症 葡萄糖"
    )


@pytest.fixture(scope="module")
def german() -> list[Mined]:
    return pool(
        GERMAN, "de", "atemwege bronchien kortison bronchialschleimhaut schleimhaut entzündung"
    )


def test_chinese_yields_every_family_and_every_label(chinese: list[Mined]):
    assert {task.family for task in chinese} == FAMILIES
    assert {(t.family, t.label) for t in chinese} >= LABELS
    assert {t.label for t in chinese if t.family == "question"} == {"cause", "definition", "number"}


def test_chinese_tasks_are_in_chinese(chinese: list[Mined]):
    for task in chinese:
        for slot in task.slots.values():
            assert not re.search("[A-Za-z]{2,}", slot), task
            assert " " not in slot


def by(tasks: list[Mined], family: str, label: str | None = None) -> list[dict[str, str]]:
    return [dict(t.slots) for t in tasks if t.family == family and label in (None, t.label)]


def test_chinese_pairs(chinese: list[Mined]):
    assert by(chinese, "nli", "entail") == [
        {
            "premise": "肥胖者的脂肪组织会释放多种炎症因子。",
            "hypothesis": "控制体重有助于预防糖尿病。",
            "connective": "因此",
        }
    ]
    assert {
        "cause": "胰岛素绝对缺乏。",
        "effect": "1型糖尿病患者必须终身注射胰岛素。",
        "connective": "由于",
    } in by(chinese, "cause")
    assert {
        "cause": "血糖升高是缓慢发生的。",
        "effect": "许多患者没有明显症状。",
        "connective": "因为",
    } in by(chinese, "cause")
    assert {
        "premise": "遗传因素起着重要作用。",
        "hypothesis": "生活方式的影响更大。",
        "connective": "虽然",
    } in by(chinese, "nli", "contradict")
    assert by(chinese, "paraphrase", "similar")[0]["first"] == "饮食控制是治疗的基础。"


def test_chinese_statements(chinese: list[Mined]):
    assert {slots["term"] for slots in by(chinese, "definition")} == {"糖尿病", "血糖"}
    assert [slots["question"] for slots in by(chinese, "question", "number")] == [
        "全国约有多少名成年糖尿病患者？",
        "成年人的患病率是多少？",
    ]
    assert by(chinese, "topic")[0]["topic"] == "糖尿病的病因、诊断标准和常用的治疗方法。"
    assert [slots["title"] for slots in by(chinese, "section")] == ["病因", "治疗"]
    assert by(chinese, "keyword")[-1]["keywords"].count("、") == 2


def test_chinese_keywords_are_pieces_of_two_characters_that_general_text_does_not_have():
    language = load_language("zh")
    general = plain_pieces(["▁", "血管", "糖", "尿"])
    pieces = ["糖尿病", "▁胰岛素", "血管", "糖", "我们", "因此", "的血糖", "可以", "insulin"]
    assert keywords_among(pieces, general, language) == ["糖尿病", "胰岛素"]


def test_german_yields_every_family(german: list[Mined]):
    assert {task.family for task in german} == FAMILIES
    contrast = by(german, "nli", "contradict")
    assert contrast == [
        {
            "premise": "Die Krankheit verläuft meist mild.",
            "hypothesis": "Einige Patienten erleiden schwere Anfälle.",
            "connective": "aber",
        }
    ]
    assert by(german, "definition")[0]["term"] == "Asthma"
    assert (
        by(german, "question", "number")[0]["question"]
        == "Wie hoch ist die Häufigkeit bei Erwachsenen?"
    )
