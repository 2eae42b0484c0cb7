"""A linter of the templates: enough of each, slots that exist, no debris, no two alike."""

import difflib
import itertools
import re

import pytest
import yaml

from data.comprehension.quotation import capitalized
from data.comprehension.templates import (
    FOLDER,
    FRAME_GROUPS,
    TASK_GROUPS,
    languages,
    load_templates,
    parse_templates,
)

# Published counts (AdaptLLM); the last two groups are ours.
ENGLISH = {
    "nli.classify": 37,
    "nli.entail": 13,
    "nli.contradict": 7,
    "nli.neutral": 5,
    "cause.cause_effect": 24,
    "cause.effect_cause": 31,
    "paraphrase.similar": 11,
    "paraphrase.different": 12,
    "keyword": 25,
    "definition": 12,
    "topic": 19,
    "title": 10,
    "title.inverted": 10,
    "completion": 10,
    "both": 10,
    "neither": 13,
    "intro": 18,
    "question": 12,
    "section": 12,
}
LEAST = {"en": ENGLISH, "zh": dict.fromkeys(ENGLISH, 8), "de": dict.fromkeys(ENGLISH, 2)}
MOST_ALIKE = 0.85
SLOTS = {
    "en": {
        "connective": "Therefore",
        "keywords": "glioma, astrocytoma, ependymoma",
        "term": "Renal failure",
        "verb": "is",
        "title": "Tumours of the brain",
        "opening": "Most tumours of the brain are found late …",
        "body": "Most tumours of the brain are found late.\n\nFew are found early.",
        "question": "What is renal failure?",
        "topic": "to compare both drugs",
    },
    "zh": {
        "connective": "因此",
        "keywords": "胶质瘤、星形细胞",
        "term": "肾衰竭",
        "verb": "是",
        "title": "脑部肿瘤",
        "opening": "多数脑部肿瘤 …",
        "body": "多数脑部肿瘤发现得较晚。",
        "question": "什么是肾衰竭？",
        "topic": "比较两种药物",
    },
    "de": {
        "connective": "Deshalb",
        "keywords": "Gliom, Astrozyt",
        "term": "Nierenversagen",
        "verb": "ist",
        "title": "Tumoren des Gehirns",
        "opening": "Die meisten Tumoren …",
        "body": "Die meisten Tumoren werden spät entdeckt.",
        "question": "Was ist Nierenversagen?",
        "topic": "der Vergleich beider Mittel",
    },
}
SENTENCE = {
    "en": "the drug reduces fever in most adults",
    "zh": "该药能使多数患者退热。",
    "de": "das Mittel senkt bei den meisten das Fieber",
}
DOMAIN = {"en": "biomedicine", "zh": "医学", "de": "Medizin"}
LANGUAGES = sorted(LEAST)


def groups(language, domain=None):
    """Every group of a language's file as (group, [the template's parts as written])."""
    content = yaml.safe_load((FOLDER / f"{language}.yaml").read_text(encoding="utf-8"))
    for group in TASK_GROUPS:
        yield group, [[t] for entry in content[group] for t in entry["templates"]]
    for group, parts in FRAME_GROUPS.items():
        keys = ("before", *parts)
        entries = [e if isinstance(e, dict) else {"before": e} for e in content[group]]
        yield group, [[entry.get(key, "") for key in keys] for entry in entries]
    yield "intro", [[text] for text in content["intro"]]


def rendered(language, domain):
    """Every template and frame as a finished question and answer: (group, text)."""
    templates = load_templates(language, domain)
    slots = SLOTS[language]
    labels = ("entail", "contradict", "neutral")
    names = (
        "premise",
        "hypothesis",
        "cause",
        "effect",
        "first",
        "second",
        "sentence",
        "definition",
    )
    slots = {**dict.fromkeys((*names, "answer"), SENTENCE[language]), **slots}
    for group, items in templates.tasks.items():
        for item in items:
            for label in labels if group == "nli.classify" else ("",):
                yield group, templates.render(item.question, slots)
                yield group, templates.render(item.answer(label), slots)
    for group, frames in templates.frames.items():
        for frame in frames:
            yield group, frame.before
            yield group, templates.render(frame.ask, slots)
            yield group, frame.ask_title
    yield from (("intro", text) for text in templates.intros)


@pytest.mark.parametrize("language", LANGUAGES)
def test_there_are_as_many_templates_as_promised(language):
    found = {group: len(entries) for group, entries in groups(language)}
    short = {group: found[group] for group, n in LEAST[language].items() if found[group] < n}
    assert not short


def test_published_forms_are_there():
    templates = load_templates("en", "biomedicine")
    classify = templates.tasks["nli.classify"]
    answers = [item.answer("entail")[0] for item in classify]
    assert answers.count("Yes") >= 28
    assert answers.count("Therefore") >= 5
    assert answers.count("Entailment") >= 4
    texts = ["".join(p for p in item.question if isinstance(p, str)) for item in classify]
    assert sum("- Yes\n- No\n- Maybe" in text for text in texts) >= 7
    assert sum(item.inverted for item in templates.tasks["keyword"]) >= 5
    assert sum(frame.tasks_first for frame in templates.frames["title"]) >= 4
    assert sum(frame.tasks_first for frame in templates.frames["both"]) >= 2
    assert "" in [frame.before for frame in templates.frames["neither"]]


@pytest.mark.parametrize("language", LANGUAGES)
def test_without_a_domain_no_template_names_one(language):
    for group, text in rendered(language, None):
        assert not set(text) & set("{}"), (group, text)
    without, named = load_templates(language), load_templates(language, "PHLEBOLOGY")
    assert "PHLEBOLOGY" not in str(without.tasks) + str(without.frames) + str(without.intros)
    if language != "de":
        assert str(named.tasks).count("PHLEBOLOGY") > 5
    for group in without.tasks:
        assert 2 <= len(without.tasks[group]) <= len(named.tasks[group])


DEBRIS = [
    ("double space", r"  "),
    ("a stop before a small letter", r"\. [a-zäöü]"),
    ("space before punctuation", r"\s[,;!?](?!\w)|\s\.(?!\.\.)"),
    ("doubled punctuation", r"(?<!\.)\.\.(?!\.)|,,|[?!]\.|\.,|,\.|。。|。，|？。|：。|，。"),
    ("space at a line's end", r"[ \t]+(\n|$)"),
    ("space at a line's start", r"(^|\n)[ \t]+"),
    ("unfilled slot", r"[{}]"),
    ("empty quotation", r"\"\s*\"(?!\w)|“\s*”|„\s*“"),
    ("quotation mark after a space and before one", r"\s\"\s"),
    ("a stop inside and outside a quotation", r"\.\"\.|。”。"),
    ("space between Chinese characters", r"[\u4e00-\u9fff。，：？] [\u4e00-\u9fff]"),
]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("domain", [True, False])
def test_no_debris_is_rendered(language, domain):
    texts = list(rendered(language, DOMAIN[language] if domain else None))
    assert len(texts) > 60
    for group, text in texts:
        for what, pattern in DEBRIS:
            assert not re.search(pattern, text), f"{group}: {what}: {text!r}"
        assert text.count('"') % 2 == 0, (group, text)
        for left, right in ("()", "（）", "“”", "[]") if language != "de" else ("()", "„“"):
            assert text.count(left) == text.count(right), (group, text)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_group_has_a_template_for_any_slots(language):
    """One without quotation marks, repeated connective or long answer, also without a domain."""
    for group, items in load_templates(language).tasks.items():
        plain = [item for item in items if not (item.linked or item.quoted or item.clause)]
        assert [item for item in plain if not item.inverted], group


@pytest.mark.parametrize("language", LANGUAGES)
def test_quotations_end_with_one_stop(language):
    """A clause with and without its full stop, with a capital and without, gives the same text."""
    templates = load_templates(language, DOMAIN[language])
    stop = templates.stop
    for item in templates.tasks["cause.effect_cause"]:
        bare = {"cause": SENTENCE[language].rstrip("。"), "effect": SENTENCE[language].rstrip("。")}
        full = {name: capitalized(text) + stop for name, text in bare.items()}
        assert templates.render(item.question, bare) == templates.render(item.question, full)


def normal(parts):
    """A template without capitals and punctuation, each slot one character.

    What stands in a slot is the same for all, so slots must neither make templates alike nor
    different by the length of their names.
    """
    text = "\n".join(parts).lower()
    names = sorted(set(re.findall(r"\{[^}]*\}", text)))
    for i, name in enumerate(names):
        text = text.replace(name, chr(0xE000 + i))
    return " ".join(re.sub(r"[^\w\ue000-\ue0ff\s]", " ", text).split())


def similarity(a, b):
    """Twice the matching characters by their sum (difflib), 0 where a bound says at most 0.85."""
    matcher = difflib.SequenceMatcher(None, a, b, autojunk=False)
    if matcher.real_quick_ratio() <= MOST_ALIKE or matcher.quick_ratio() <= MOST_ALIKE:
        return 0.0
    return matcher.ratio()


def test_the_measure_sees_near_copies():
    one = normal(["What is the effect of this? {cause}"])
    assert similarity(one, normal(["what is the effects of this: {cause}"])) > MOST_ALIKE
    assert similarity(one, normal(["Which outcome has this: {cause}"])) < MOST_ALIKE


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_template_is_a_near_copy_of_another(language):
    alike = []
    for group, entries in groups(language):
        texts = [normal(parts) for parts in entries if "".join(parts) not in ("", "{question}")]
        assert len(set(texts)) == len(texts), f"{group}: the same twice"
        for a, b in itertools.combinations(texts, 2):
            if (ratio := similarity(a, b)) > MOST_ALIKE:
                alike.append((group, round(ratio, 3), a, b))
    assert not alike


def source(language="en", **changes):
    content = yaml.safe_load((FOLDER / f"{language}.yaml").read_text(encoding="utf-8"))
    return yaml.safe_dump(content | changes, allow_unicode=True)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"topic": [{"answer": "{topic}", "templates": ["What of {premise}?"]}]}, "{premise}"),
        (
            {"topic": [{"answer": "{topic}", "templates": ["What of {topic:loud}?"]}]},
            "{topic:loud}",
        ),
        ({"topic": [{"answer": "{topic}", "templates": ["What of {topic?"]}]}, "topic"),
        ({"topic": [{"answer": "{topic}", "templates": ["{options}"]}]}, "{options}"),
        ({"topic": [{"answer": "x", "template": ["What?"]}]}, "template"),
        ({"topic": [{"answer": "x", "templates": ["Only {domain}?"]}]}, "without a domain"),
        ({"completion": [{"ask": "On with {title}"}]}, "{title}"),
        ({"title": [{"ask": "Title?", "tasks": "never"}]}, "never"),
        ({"topics": []}, "topics"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(changes, says):
    with pytest.raises(ValueError, match=r"en\.yaml") as error:
        parse_templates(source(**changes), "en.yaml", "en", None)
    assert says in str(error.value)


def test_a_language_without_templates_is_named():
    assert set(languages()) >= {"de", "en", "zh"}
    with pytest.raises(ValueError, match=r"no fr\.yaml .* de, en, zh"):
        load_templates("fr")


@pytest.mark.parametrize(
    ("written", "alone", "inside"),
    [
        ("the cells divide", "The cells divide.", "the cells divide"),
        ("The cells divide.", "The cells divide.", "the cells divide"),
        ("Klebsiella grows.", "Klebsiella grows.", "Klebsiella grows"),
        ("mRNA is short", "mRNA is short.", "mRNA is short"),
        ("p53 binds DNA,", "p53 binds DNA.", "p53 binds DNA,"),
        ("is it so?", "Is it so?", "is it so?"),
        ('he said "no."', 'He said "no."', 'he said "no."'),
        ("it sued Delacourt Co.", "It sued Delacourt Co.", "it sued Delacourt Co."),
        ("cases in the U.S.", "Cases in the U.S.", "cases in the U.S."),
        ("as shown by Smith et al.", "As shown by Smith et al.", "as shown by Smith et al."),
        ("a line\n   that wraps", "A line that wraps.", "a line that wraps"),
    ],
)
def test_a_quotation_as_a_sentence_and_inside_one(written, alone, inside):
    templates = load_templates("en")
    assert templates.render([("premise", "")], {"premise": written}) == alone
    assert templates.render([("premise", "inner")], {"premise": written}) == inside
