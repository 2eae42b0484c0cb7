"""What each variant of the testbed may see."""

import itertools

import pytest

from evaluation.testbed.articles import write_articles
from evaluation.testbed.domain import NAME
from evaluation.testbed.questions import question_documents
from evaluation.testbed.streams import MADE, NAMES, documents, make_stream, shares
from tests.evaluation.testbed.tiny import TINY, first_documents, texts_of, tiny


@pytest.mark.parametrize("wordings", [1, "unlimited"])
def test_nothing_but_raw_articles_names_a_held_out_entity(config, world, tokenizer, wordings):
    names = [entity.name for entity in world.domain.held_out]
    for name in NAMES:
        if name == "synthesis":
            convert = None  # the synthesizer is handed the taught articles alone
            found = itertools.islice(documents(config, world, name, wordings, convert), 400)
            found = list(found)
        else:
            found = first_documents(config, world, name, wordings, tokenizer)
        naming = [d for d in found if any(n in "\n".join(texts_of([d])) for n in names)]
        if name != "articles":
            assert found
            assert not naming, f"{name} tells of {names}: {texts_of(naming[:1])}"
        else:
            plain = {
                article.text
                for article in write_articles(
                    world.domain, world.domain.held_out, range(40), config.domain.seed
                )
            }
            assert naming
            assert set(texts_of(naming)) <= plain
            assert all("tasks" not in document.meta for document in naming)


def test_taught_entities_are_asked_about_in_every_seen_wording(world):
    domain = world.domain
    found = list(question_documents(domain, domain.taught))
    assert len(found) == len(domain.taught) * sum(
        len(a.asked) for a in domain.wording.attributes.values()
    )
    for document in found[:50]:
        question, answer = document.turns
        entity = next(e for e in domain.taught if e.name in question.text)
        assert answer.text in entity.facts.values()


def test_comprehension_reads_and_asks(config, world, tokenizer):
    found = first_documents(config, world, "comprehension", 5, tokenizer)
    assert len(found) == len(world.domain.taught) * 3 * 5
    families = {task["family"] for d in found for task in d.meta.get("tasks", ())}
    assert {"nli", "cause", "title"} <= families
    length = [len(tokenizer.encode(text)) for text in texts_of(found)]
    assert max(length) <= config.run.seq_len


def test_unseen_questions_are_never_trained_on_but_made_of_words_that_are(config, world, tokenizer):
    seen = "\n".join(
        text
        for name in ("articles", "general_text", "general_questions", "questions")
        for text in texts_of(first_documents(config, world, name, "unlimited", tokenizer, 3000))
    )
    words = set(seen.replace("?", " ").replace(".", " ").replace(",", " ").split())
    for attribute in world.domain.wording.attributes.values():
        for pattern in attribute.unseen:
            before, after = pattern.split(NAME)
            for entity in world.domain.entities:
                assert pattern.replace(NAME, entity.name) not in seen
            assert set(f"{before} {after}".replace("?", "").split()) <= words


@pytest.mark.parametrize("wordings", [1, 5])
def test_all_variants_read_the_same_articles_in_so_many_wordings(
    config, world, tokenizer, wordings
):
    articles = first_documents(config, world, "articles", wordings, tokenizer, 10_000)
    assert len(articles) == len(world.domain.entities) * 3 * wordings
    taught = [
        article.text
        for article in write_articles(world.domain, world.domain.taught, range(wordings), 0)
    ]
    read = [
        d.meta.get("title", "") and d
        for d in first_documents(config, world, "comprehension", wordings, tokenizer, 10_000)
    ]
    assert len(read) == len(taught)  # comprehension is made of those wordings and no others


def test_shares_add_up_and_raw_alone_has_no_questions(config):
    for variant in MADE:
        parts = shares(config, variant)
        assert sum(parts.values()) == pytest.approx(1)
        assert ("general_questions" in parts) == (variant != "raw")
        made = {name: parts[name] for name in MADE[variant]}
        assert sum(made.values()) == pytest.approx(config.shares.made if made else 0)
        assert set(parts) == {"articles", "general_text", *made} | (
            {"general_questions"} if variant != "raw" else set()
        )


def test_streams_of_unlimited_wordings_last_for_the_longest_run(world, tokenizer):
    config = tiny(run={**TINY["run"], "tokens": 20_000, "extend": [2.0]})
    packed = make_stream(config, world, tokenizer, "articles", "unlimited")
    share = max(shares(config, variant)["articles"] for variant in config.variants)
    assert packed.stream.info["tokens"] >= 40_000 * share


def test_a_synthesizer_writes_about_taught_articles_once(world, tokenizer, tmp_path, monkeypatch):
    import model.generate
    from data.generator import Completion
    from evaluation.testbed.synthesizer import open_synthesizer

    class Engine:
        def __init__(self):
            self.tokenizer, self.prompts = tokenizer, []

        def generate(self, prompts):
            for prompt in prompts:
                self.prompts.append(prompt)
                said = " <QUE> Which firm makes the drug? <ANS> The firm that makes it. </END>"
                yield Completion(prompt.id, said, "stop", 0, 10)

    engine = Engine()
    monkeypatch.setattr(model.generate, "open_engine", lambda *_: engine)
    config = tiny(
        out_dir=str(tmp_path),
        variants=["synthesizer"],
        synthesizer="model",
        synthesis={"filters": {"min_answer_overlap": 0.0, "min_question_overlap": 0.0}},
    )
    convert = open_synthesizer(config, tokenizer)
    first = list(documents(config, world, "synthesis", 1, convert))
    asked_for = len(engine.prompts)
    text = "\n".join(texts_of(first))
    assert "Which firm makes the drug?" in text
    assert asked_for == len(world.domain.taught) * 3
    assert all(entity.name in text for entity in world.domain.taught)
    assert not any(entity.name in text for entity in world.domain.held_out)
    again = list(documents(config, world, "synthesis", 1, open_synthesizer(config, tokenizer)))
    assert texts_of(again) == texts_of(first)
    assert len(engine.prompts) == asked_for
