"""A text with hand-made tasks of every family, so that composition is tested without the miner."""

from data.comprehension.compose import Passage
from data.comprehension.mined import Mined

TITLE = "Ice fish of the Southern Ocean"
BODY = """Ice fish live in the coldest sea on earth. Their blood has no red cells. Therefore, it \
carries little oxygen.

Habitat
    depth    water
    200 m    -1.9 °C
However, the cold water holds much oxygen. In other words, the sea makes up for the blood. \
An antifreeze is defined as a protein that keeps ice crystals small. This page is about the life \
of ice fish."""
TEXT = f"{TITLE}\n{BODY}"


def span(quote: str) -> tuple[int, int]:
    start = TEXT.index(quote)
    return start, start + len(quote)


def mined(family: str, label: str, pair: str = "", **slots: str) -> Mined:
    """A task whose slots are quotations of the text, but for words that are not in it."""
    spans = tuple(span(slot) for slot in slots.values() if slot in TEXT and len(slot) > 9)
    return Mined(family, label, slots, spans, pair or f"{family} {spans}")


SENTENCES = tuple(
    span(sentence)
    for sentence in (
        "Ice fish live in the coldest sea on earth.",
        "Their blood has no red cells.",
        "Therefore, it carries little oxygen.",
        "Habitat\n    depth    water\n    200 m    -1.9 °C",
        "However, the cold water holds much oxygen.",
        "In other words, the sea makes up for the blood.",
        "An antifreeze is defined as a protein that keeps ice crystals small.",
        "This page is about the life of ice fish.",
    )
)
PASSAGE = Passage("ice", TEXT, TITLE, len(TITLE) + 1, SENTENCES)

BLOOD, OXYGEN = "Their blood has no red cells", "it carries little oxygen"
WATER, SEA = "the cold water holds much oxygen", "the sea makes up for the blood"
TASKS = (
    mined("nli", "entail", "blood", premise=BLOOD, hypothesis=OXYGEN, connective="Therefore"),
    mined("cause", "cause_effect", "blood", cause=BLOOD, effect=OXYGEN, connective="Therefore"),
    mined("nli", "contradict", "water", premise=OXYGEN, hypothesis=WATER, connective="However"),
    mined("paraphrase", "different", "water", first=OXYGEN, second=WATER, connective="However"),
    mined("paraphrase", "similar", first=WATER, second=SEA, connective="In other words"),
    mined(
        "keyword",
        "keyword",
        sentence="An antifreeze is defined as a protein that keeps ice crystals small.",
        keywords="antifreeze, protein, crystals",
    ),
    mined(
        "definition",
        "definition",
        term="antifreeze",
        verb="is defined as",
        definition="a protein that keeps ice crystals small",
    ),
    mined("topic", "topic", sentence="This page", verb="is about", topic="the life of ice fish"),
    mined(
        "question",
        "number",
        question="How cold is the water at 200 m?",
        answer="-1.9 °C.",
    ),
    mined("section", "section", title="Habitat", body=BODY[BODY.index("    depth") :]),
)
