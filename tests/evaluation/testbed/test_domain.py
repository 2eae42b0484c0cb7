"""The generated domain: entities, articles, questions."""

import random

import pytest

from evaluation.testbed.articles import write_article, write_articles
from evaluation.testbed.domain import load_wording, make_domain


def test_a_domain_and_its_articles_are_a_function_of_the_seed():
    wording = load_wording("pharmacopoeia")
    made = [make_domain(wording, num_entities=30, held_out=0.4, seed=s) for s in (3, 3, 4)]
    random.seed(1)
    articles = [[a.text for a in write_articles(d, d.entities, range(3), 3)] for d in made]
    assert made[0] == made[1]
    assert articles[0] == articles[1]
    assert made[0] != made[2]
    assert articles[0] != articles[2]


def test_the_split_is_60_to_40_and_no_value_is_common_in_either_part():
    domain = make_domain(load_wording("pharmacopoeia"), num_entities=120, held_out=0.4, seed=0)
    assert (len(domain.taught), len(domain.held_out)) == (72, 48)
    assert len({entity.name for entity in domain.entities}) == 120
    for attribute, told in domain.wording.attributes.items():
        for part in (domain.taught, domain.held_out):
            found = [entity.facts[attribute] for entity in part]
            counts = [found.count(value) for value in told.values]
            assert max(counts) - min(counts) <= 1


def test_an_article_tells_every_fact_of_its_kind_and_the_cloze_comes_before_it():
    wording = load_wording("pharmacopoeia")
    domain = make_domain(wording, num_entities=20, held_out=0.4, seed=0)
    for article in write_articles(domain, domain.entities, range(10), 0):
        assert article.text.startswith(article.title + "\n")
        assert set(article.cloze) == set(wording.articles[article.kind])
        for attribute, place in article.cloze.items():
            value = article.entity.facts[attribute]
            assert article.text[place:].startswith(value)
            assert value not in article.text[:place]
            assert article.entity.name in article.text[:place]


def test_wordings_of_an_article_differ_and_the_miner_lives_on_them():
    from data.comprehension.language import load_language
    from data.comprehension.mine import mine

    wording = load_wording("pharmacopoeia")
    domain = make_domain(wording, num_entities=20, held_out=0.4, seed=0)
    entity = domain.entities[0]
    texts = [write_article(wording, entity, "use", n, 0).text for n in range(200)]
    assert len(set(texts)) > 190
    language = load_language("en")
    mined = [task for text in texts[:60] for task in mine(text, language, None)]
    assert {"nli", "cause", "paraphrase"} <= {task.family for task in mined}
    assert len(mined) >= 60


def test_every_question_wording_is_one_of_its_own():
    for name in ("pharmacopoeia", "towns"):
        wording = load_wording(name)
        questions = [q for a in wording.attributes.values() for q in (*a.asked, *a.unseen)]
        assert len(set(questions)) == len(questions)


def test_general_questions_use_the_same_question_words():
    def opening(name, unseen):
        attributes = load_wording(name).attributes.values()
        asked_ = [q for a in attributes for q in (a.unseen if unseen else a.asked)]
        words = {q.split()[0].lower() for q in asked_}
        return words & {"what", "which", "who", "when", "how", "since", "name", "by"}

    assert opening("pharmacopoeia", True) <= opening("towns", False)
    assert opening("pharmacopoeia", False) <= opening("towns", False)


def test_too_many_entities_or_an_empty_part_are_refused():
    wording = load_wording("towns")
    with pytest.raises(ValueError, match="more than the 96 names"):
        make_domain(wording, num_entities=97, held_out=0.4, seed=0)
    with pytest.raises(ValueError, match="both parts need at least one"):
        make_domain(wording, num_entities=2, held_out=0.1, seed=0)
    with pytest.raises(ValueError, match="does not exist"):
        load_wording("/nowhere/words.yaml")
