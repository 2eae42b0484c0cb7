"""Which pairs are let through: every reason has a pair that gets it and one beside it that does not."""

import pytest

from data.synthesis import grounding
from data.synthesis.config import FiltersConfig
from data.synthesis.filters import judge_pairs, load_phrases
from data.synthesis.format import Pair

TEXT = (
    "Asthma is a long-term disease of the lungs. It makes the airways swell and narrow, which leads "
    "to wheezing, shortness of breath, chest tightness and coughing. In 2019 some 262 million people "
    "had asthma. Inhaled steroids reduce the swelling; they are taken every day for months."
)
CHINESE = (
    "哮喘是一种慢性肺部疾病。它使气道肿胀变窄，引起喘息、气短、胸闷和咳嗽。吸入激素可以减轻肿胀。"
)


def reason(question: str, answer: str, text: str = TEXT, **settings) -> str | None:
    tasks, rejected = judge_pairs([Pair(question, answer)], text, FiltersConfig(**settings))
    assert len(tasks) + len(rejected) == 1
    return rejected[0].reason if rejected else None


@pytest.mark.parametrize(
    ("question", "answer", "wanted"),
    [
        ("What does asthma do to the airways?", "It makes them swell and narrow.", None),
        ("What is given against it?", "Inhaled steroids", None),
        ("How many people had it in 2019?", "262 million", None),
        ("What is given against it?", "Antibiotics from the pharmacy", "not grounded"),
        ("Who wrote the report?", "Professor Hildegard Brown", "not grounded"),
        ("Is asthma a disease of the lungs?", "Yes", None),
        ("Was Napoleon born in Corsica, then?", "Yes", "not grounded"),
        ("Is it so?", "Yes", "not grounded"),
        ("Why?", "It makes the airways swell", "question too short"),
        ("What is asthma, in short?", "What is asthma, in short?", "answer repeats the question"),
        ("What does asthma lead to?", "wheezing and coughing " * 20, "answer runs in a loop"),
        ("What does asthma lead to?", "wheezing " * 300, "answer too long"),
        ("What is " + "asthma and " * 200 + "so on?", "a disease", "question too long"),
        (
            "What do they reduce?\nOptions:\n- swelling\n- coughing",
            "breathing",
            "answer is no option",
        ),
        ("What do steroids reduce?\nOptions:\n- the swelling\n- people", "The swelling.", None),
        ("What colour are inhalers?\nOptions:\n- blue\n- red\n- asthma", "unknown", None),
        ("Who was Caesar?\nOptions:\n- general\n- poet", "general", "not grounded"),
        (
            "How long are steroids taken?\nLet's think step by step.",
            "Steroids are taken every day for months.\nTherefore, the answer is months",
            None,
        ),
        (
            "How long are steroids taken?\nLet's think step by step.",
            "Camels cross deserts because caravans paid merchants.\nTherefore, the answer is months",
            "not grounded",
        ),
        ("What does asthma lead to?", "哮喘会引起喘息和咳嗽", "wrong language"),
        (
            "Was genau bewirkt die Krankheit namens Asthma eigentlich bei den Menschen?",
            "Asthma führt dazu, dass die Atemwege anschwellen und enger werden.",
            "wrong language",
        ),
    ],
)
def test_a_pair_is_judged(question, answer, wanted):
    assert reason(question, answer) == wanted


def test_chinese_is_judged_by_its_characters():
    assert reason("哮喘会引起什么症状呢？", "喘息、气短、胸闷和咳嗽", CHINESE) is None
    assert reason("谁发明了这种新的药物？", "爱因斯坦教授", CHINESE) == "not grounded"
    assert reason("What does asthma lead to?", "wheezing", CHINESE) == "wrong language"


def test_thresholds_are_settings():
    question, answer = "What is given against it?", "Antibiotics and inhaled oxygen"
    assert reason(question, answer) == "not grounded"  # one word of three
    assert reason(question, answer, min_answer_overlap=0.3) is None
    assert reason("Why so?", "It is inhaled") == "question too short"
    assert reason("Why so?", "It is inhaled", min_question_chars=3) is None
    assert reason("What is it called?", "喘息", language="off", min_answer_overlap=0) is None
    assert reason("What is it called?", "asthma", language="zh") is None  # too short to tell
    long = "Which disease of the lungs makes the airways of so many people swell and narrow?"
    assert reason(long, "asthma", language="zh") == "wrong language"
    assert reason(long, "asthma", language="en") is None


def judged(*questions: str, **settings):
    pairs = [Pair(question, "asthma") for question in questions]
    return judge_pairs(pairs, TEXT, FiltersConfig(**settings))


def test_equal_and_near_equal_questions_are_asked_once():
    first = "Which long-term disease of the lungs makes the airways of people swell and narrow?"
    tasks, rejected = judged(
        first,
        first.upper(),  # letters aside
        first.replace("Which long", "So which long"),  # one word more
        "Which disease makes you cough?",
    )
    assert [task.question for task in tasks] == [first, "Which disease makes you cough?"]
    assert [item.reason for item in rejected] == ["duplicate question"] * 2
    exact, _ = judged(first, first.replace("Which long", "So which long"), duplicate_overlap=1)
    assert len(exact) == 2


def test_questions_that_differ_in_a_number_are_two():
    first = "Which disease of the lungs did some 262 million people on this earth have in 2019?"
    tasks, _ = judged(first, first.replace("2019", "1999"))
    assert len(tasks) == 2


def test_a_rejected_question_may_be_asked_again():
    pairs = [
        Pair("What is given against it?", "Antibiotics, of course"),
        Pair("What is given against it?", "Inhaled steroids"),
    ]
    tasks, rejected = judge_pairs(pairs, TEXT, FiltersConfig())
    assert [task.answer for task in tasks] == ["Inhaled steroids"]
    assert [item.reason for item in rejected] == ["not grounded"]


def test_the_answer_is_spelled_as_its_option():
    (task,), _ = judge_pairs(
        [Pair("What do steroids reduce?\nOptions:\n- the swelling\n- people", "The  SWELLING.")],
        TEXT,
        FiltersConfig(),
    )
    assert task.answer == "the swelling"


def test_that_there_is_no_answer_becomes_an_option():
    (task,), _ = judge_pairs(
        [
            Pair(
                "What colour are inhalers?\nOptions:\n- of steroids\n- red", "Cannot be determined."
            )
        ],
        TEXT,
        FiltersConfig(),
    )
    assert task.options == ("of steroids", "red", "Cannot be determined.")
    assert task.answer == "Cannot be determined."


def test_no_two_phrases_run_together():
    """A missing comma once merged two of a published list."""
    phrases = load_phrases()
    assert len(phrases.unanswerable) >= 30
    assert {"yes", "no", "true"} <= phrases.closed
    assert all(len(phrase.split()) <= 8 for phrase in phrases.unanswerable)


def test_a_phrase_that_yaml_takes_for_a_truth_value_is_refused(tmp_path):
    path = tmp_path / "phrases.yaml"
    path.write_text("unanswerable: [unknown]\nclosed: [yes]\n")
    with pytest.raises(ValueError, match="put it into quotes"):
        load_phrases(path)
    path.write_text("unanswerable: [unknown, Unknown]\nclosed: ['yes']\n")
    with pytest.raises(ValueError, match="stand there twice"):
        load_phrases(path)


def test_overlap_is_a_share_of_content_words():
    assert grounding.overlap("steroids and antibiotics", "inhaled steroids") == 0.5
    assert grounding.overlap("reduces swelling", "they reduced the swellings") == 1
    assert grounding.overlap("the swelling narrows", "narrow swelling", n=2) == 0
    assert grounding.overlap("the swelling narrows", "swelling that narrows", n=1) == 1
    assert grounding.overlap("", "anything") == 0
    assert grounding.overlap("it is", "is it") == 1  # all words, where none is long


def test_scripts_are_told_apart():
    assert grounding.script("哮喘 asthma 是一种慢性肺部疾病") == "Han"
    assert grounding.script("asthma") == "Latin"
    assert grounding.script("2019: 1 + 1") is None
    assert grounding.scripts("asthma 哮喘") == {"Latin", "Han"}
