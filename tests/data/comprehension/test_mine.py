"""English texts in which every pair is known."""

import pickle

import pytest

from data.comprehension.language import load_language
from data.comprehension.mine import mine
from data.comprehension.mined import Mined

EN = load_language("en")


def mined(text: str, family: str | None = None, label: str | None = None) -> list[Mined]:
    tasks = mine(text, EN, None)
    return [t for t in tasks if family in (None, t.family) and label in (None, t.label)]


def pairs(text: str, family: str, label: str | None = None) -> list[tuple[str, ...]]:
    """The two sentences of every task of a family."""
    names = {
        "nli": ("premise", "hypothesis"),
        "cause": ("cause", "effect"),
        "paraphrase": ("first", "second"),
        "definition": ("term", "definition"),
        "topic": ("sentence", "topic"),
        "question": ("question", "answer"),
    }[family]
    return [tuple(task.slots[name] for name in names) for task in mined(text, family, label)]


DOSE = "A dose of 0.5 mg, given twice a day, lowers the pressure in most patients."


def test_commas_decimals_and_citations_lose_no_pair():
    text = (
        f"{DOSE} However, the effect (Smith et al., 2010) fades within 2.5 hours, "
        "e.g. in older people."
    )
    assert pairs(text, "nli", "contradict") == [
        (DOSE, "The effect (Smith et al., 2010) fades within 2.5 hours, e.g. in older people.")
    ]


def test_the_first_and_the_last_sentence_take_part_without_a_stop_of_white_space():
    text = "Water freezes at zero degrees in January. Therefore, pipes burst in winter."
    assert pairs(text, "nli", "entail") == [
        ("Water freezes at zero degrees in January.", "Pipes burst in winter.")
    ]


def test_a_chain_gives_every_adjacent_pair():
    text = (
        "Aspirin lowers the fever in adults. However, it does not help children. "
        "However, a syrup is available for them. However, the syrup is expensive."
    )
    found = pairs(text, "nli", "contradict")
    assert len(found) == 3
    assert found[1] == ("It does not help children.", "A syrup is available for them.")


def test_twins_share_their_pair_and_nothing_else_does():
    text = (
        "Aspirin lowers the fever in adults. Therefore, it is widely used today. "
        "However, it has side effects in children."
    )
    by_pair: dict[str, set[tuple[str, str]]] = {}
    for task in mined(text):
        by_pair.setdefault(task.pair, set()).add((task.family, task.label))
    assert sorted(map(sorted, by_pair.values())) == [
        [("cause", "cause_effect"), ("nli", "entail")],
        [("nli", "contradict"), ("paraphrase", "different")],
    ]


def test_spans_quote_the_text():
    text = f"{DOSE} However, the effect fades quickly. It fades because enzymes remove the drug."
    for task in mined(text):
        for (start, stop), slot in zip(task.spans, task.slots.values(), strict=False):
            assert text[start:stop].lower() == slot.rstrip(".").lower()


@pytest.mark.parametrize(
    ("text", "family", "pair"),
    [
        (
            "The valve leaks in many older patients, but the leak rarely causes symptoms.",
            "nli",
            ("The valve leaks in many older patients.", "The leak rarely causes symptoms."),
        ),
        (
            "The court denied the motion; however, the plaintiff may file a new complaint.",
            "nli",
            ("The court denied the motion.", "The plaintiff may file a new complaint."),
        ),
        (
            "Men received the drug for a year, whereas women received it for a month.",
            "paraphrase",
            ("Men received the drug for a year.", "Women received it for a month."),
        ),
        (
            "Although the tumor is benign, it can press on the optic nerve.",
            "nli",
            ("The tumor is benign.", "It can press on the optic nerve."),
        ),
        (
            "The company sold its mines; therefore, its debt fell sharply last year.",
            "nli",
            ("The company sold its mines.", "Its debt fell sharply last year."),
        ),
        (
            "The shares fell by 3.5 percent because investors expected a higher dividend.",
            "cause",
            ("Investors expected a higher dividend.", "The shares fell by 3.5 percent."),
        ),
        (
            "Because the enzyme is missing, fats cannot be broken down in the liver.",
            "cause",
            ("The enzyme is missing.", "Fats cannot be broken down in the liver."),
        ),
        (
            "Three patients left the study, mainly due to severe side effects of the drug.",
            "cause",
            ("Severe side effects of the drug.", "Three patients left the study."),
        ),
        (
            "Due to its size, location, and type, the tumor cannot be removed.",
            "cause",
            ("Its size, location, and type.", "The tumor cannot be removed."),
        ),
        (
            "The walls of the airway are weak, leading to frequent infections of the lung.",
            "cause",
            ("The walls of the airway are weak.", "Frequent infections of the lung."),
        ),
        (
            "Gout is progressive, which means that it gets worse over time.",
            "paraphrase",
            ("Gout is progressive.", "It gets worse over time."),
        ),
    ],
)
def test_connectives_inside_a_sentence(text: str, family: str, pair: tuple[str, str]):
    assert pairs(text, family) == [pair]


@pytest.mark.parametrize(
    ("text", "question", "answer"),
    [
        (
            "Mutations in the GBA gene cause Gaucher disease.",
            "What can cause Gaucher disease?",
            "Mutations in the GBA gene.",
        ),
        (
            "An ischemic stroke is caused by a clot that blocks a vessel in the brain.",
            "What can cause an ischemic stroke?",
            "A clot that blocks a vessel in the brain.",
        ),
        ("This disorder is caused by mutations in the GBA gene.", "", ""),
        ("The condition leads to a loss of hearing in both ears.", "", ""),
        ("Genetic causes account for a third of the cases.", "", ""),
    ],
)
def test_two_phrases_make_a_question_and_no_pair(text: str, question: str, answer: str):
    assert mined(text, "cause") == []
    assert pairs(text, "question") == ([(question, answer)] if question else [])


def test_an_inserted_however_relates_to_the_sentence_before():
    text = "Most tumors grow slowly over years. In some people, however, they spread to the lung."
    assert pairs(text, "nli", "contradict") == [
        ("Most tumors grow slowly over years.", "In some people, they spread to the lung.")
    ]


def test_this_is_because_names_the_cause_of_the_sentence_before():
    text = "The test misses small vessels. This is because plaque does not block them."
    assert pairs(text, "cause") == [
        ("Plaque does not block them.", "The test misses small vessels.")
    ]


@pytest.mark.parametrize(
    "text",
    [
        # No clause on one side.
        "Blisters may be present at birth, but typically appear during early childhood.",
        "The growth factor is found in serum but not in plasma of healthy people.",
        "Thus, providing protection against the cold. Therefore, better sleep for everyone.",
        "The drug protects the cells, thus reducing the damage to the tissue.",
        "The patients lie still so that the camera can take a picture of the heart.",
        "The fall was not because the company lost money but because the rate rose.",
        "We studied patients who were excluded because they were too old.",
        # A question, a heading, another paragraph before the connective.
        "Is the drug safe for everybody? However, it is widely used in hospitals.",
        "The Drug and Its Effects\n\nHowever, it is widely used in hospitals.",
        "The drug is safe for adults.\n\nHowever, it is widely used in hospitals.",
        # What "this" means is not in the text.
        "This condition is rare in adults. However, many children suffer from it.",
        "The disorder is rare in adults. However, many children suffer from it.",
    ],
)
def test_what_is_no_pair_is_refused(text: str):
    assert [t for t in mined(text) if t.family in ("nli", "cause", "paraphrase")] == []


def test_a_sentence_that_points_back_is_read_text_when_something_stands_before_it():
    text = (
        "Gout is a painful disease of the joints. This disease is rare in young adults. "
        "However, many older men suffer from it."
    )
    assert pairs(text, "nli", "contradict") == [
        ("This disease is rare in young adults.", "Many older men suffer from it.")
    ]


@pytest.mark.parametrize(
    ("text", "term", "definition"),
    [
        (
            "Sepsis is defined as a reaction of the whole body to an infection.",
            "Sepsis",
            "A reaction of the whole body to an infection.",
        ),
        (
            "Chronic kidney disease is a condition in which the kidneys slowly fail.",
            "Chronic kidney disease",
            "A condition in which the kidneys slowly fail.",
        ),
        (
            "Effective audibility is defined as audibility corrected for distortion, and this "
            "paper proposes a method.",
            "Effective audibility",
            "Audibility corrected for distortion.",
        ),
        (
            "The term force majeure refers to events that no party could foresee.",
            "force majeure",
            "Events that no party could foresee.",
        ),
        (
            "Equity's definition is the value that is left when all debts are paid.",
            "Equity",
            "The value that is left when all debts are paid.",
        ),
        (
            "Peroxisomes are cell structures that break down toxic substances.",
            "Peroxisomes",
            "Cell structures that break down toxic substances.",
        ),
    ],
)
def test_definitions_of_short_and_long_terms(text: str, term: str, definition: str):
    assert pairs(text, "definition") == [(term, definition)]


@pytest.mark.parametrize(
    "text",
    [
        "It is a condition in which the kidneys slowly fail.",
        "The disorder is a condition in which the kidneys slowly fail.",
        "Smoking is a common cause of diseases that affect the lung.",
        "Surgery is an option for people who cannot take the drug.",
        "Treatment depends on whether the tumor is a type of germ cell tumor.",
        "There are a number of drugs that relieve the pain.",
    ],
)
def test_what_is_no_definition_is_refused(text: str):
    assert mined(text, "definition") == []
    assert mined(text, "question") == []


def test_a_definition_and_its_question_are_twins():
    text = "Many people fear asthma today. Asthma is a disease that narrows the airways."
    definition, question = mined(text, "definition")[0], mined(text, "question")[0]
    assert question.slots["question"] == "What is asthma?"
    assert question.slots["answer"] == definition.slots["definition"]
    assert question.pair == definition.pair


def test_topics_and_no_measurements():
    assert pairs("This article is about the causes of gout and its treatment.", "topic") == [
        ("This article", "The causes of gout and its treatment.")
    ]
    assert pairs("The aim of this study was to compare two drugs for gout.", "topic") == [
        ("The aim of this study", "To compare two drugs for gout.")
    ]
    for text in (
        "The rate of phase change was about 20%, lower than that of the other aerosol.",
        "The naked capsid was about 80x350 nm, and it had 15 helices along its axis.",
        "This study was about 20 percent cheaper than the one before it was.",
    ):
        assert mined(text, "topic") == []


@pytest.mark.parametrize(
    ("text", "question", "answer"),
    [
        (
            "The mean age of the patients was 59.3 years.",
            "What was the mean age of the patients?",
            "59.3 years.",
        ),
        (
            "Five thousand two hundred individuals were recruited from the four towns.",
            "How many individuals were recruited from the four towns?",
            "Five thousand two hundred.",
        ),
        (
            "About 80 percent of people who have gout are older than forty.",
            "What percentage of people who have gout are older than forty?",
            "About 80 percent.",
        ),
        (
            "Larsen syndrome occurs in approximately 1 in 100,000 newborns.",
            "How often does Larsen syndrome occur?",
            "In approximately 1 in 100,000 newborns.",
        ),
        (
            "Narcolepsy affects about 1 in 2,000 people in the United States.",
            "How many people does Narcolepsy affect?",
            "About 1 in 2,000 people in the United States.",
        ),
    ],
)
def test_questions_of_number(text: str, question: str, answer: str):
    assert pairs(text, "question", "number") == [(question, answer)]


@pytest.mark.parametrize(
    "text",
    [
        "It affects about 1 in 2,000 people in the United States.",
        "The rate was 20% in this group, respectively.",
        "Ten years later the patients were examined again by two doctors.",
        "One patient was lost to follow-up in the second year of the study.",
    ],
)
def test_what_asks_nothing_is_refused(text: str):
    assert mined(text, "question") == []


def test_labels_and_list_marks_are_no_part_of_a_pair():
    text = (
        "RESULTS: Aspirin lowered the fever in adults. However, it did not help children.\n"
        "- Aspirin thins the blood in adults, but it harms the stomach of many people."
    )
    assert [task.slots["premise"] for task in mined(text, "nli")] == [
        "Aspirin lowered the fever in adults.",
        "Aspirin thins the blood in adults.",
    ]


def test_tasks_are_in_text_order_and_the_same_every_time():
    text = f"{DOSE} However, the effect fades quickly. Therefore, a second dose is needed at noon."
    tasks = mine(text, EN, None)
    assert [task.spans for task in tasks] == sorted(task.spans for task in tasks)
    assert mine(text, pickle.loads(pickle.dumps(EN)), None) == tasks


@pytest.mark.parametrize("text", ["", " ", "\n\n", ".", "However,", "However, it is.", "?!"])
def test_hardly_any_text_gives_no_task(text: str):
    assert mine(text, EN, None) == []
