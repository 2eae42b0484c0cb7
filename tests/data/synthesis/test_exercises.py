"""Exercises: every answer stands in its text behind what is asked for, and nowhere else."""

import pytest

from data.synthesis.exercises import ListsConfig, QuotationsConfig, quotations, word_lists

WORDS = [f"{a}{b}" for a in "bcdfghkl" for b in ("an", "en", "in", "on", "un", "ar", "er")]
TEXT = (
    "The heart pumps blood through the vessels of the body. Its left half sends the blood to all "
    "organs, and its right half to the lungs alone.\nA valve keeps it from flowing back. The valve "
    "may leak when it is torn or stiff, and then the heart has to work harder than before."
)


def test_a_list_asks_for_what_came_behind_a_word():
    text = " ".join(f"{word} " * (100 - i) for i, word in enumerate(WORDS)) + " rare"
    config = ListsConfig(number=400, vocabulary=50, min_words=8, max_words=12)
    exercises = list(word_lists([text], config))
    assert len({exercise["prompt"] for exercise in exercises}) == 400
    asked = set()
    for exercise in exercises:
        *words, word = exercise["prompt"].split()
        response = exercise["response"].split()
        assert 8 <= len(words) == len(set(words)) < 12
        assert "rare" not in words
        assert 4 <= len(response) <= 12
        at = words.index(word)
        assert words[at + 1 : at + 1 + len(response)] == response
        asked.add(at)
    assert asked == set(range(7))  # every place that leaves four words behind it
    assert exercises == list(word_lists([text], config))


def test_a_list_has_no_more_words_than_there_are():
    with pytest.raises(ValueError, match="max_words: 60 is not above"):
        ListsConfig(vocabulary=50, max_words=60)


def test_a_quotation_is_unique_and_its_answer_stands_behind_it():
    texts = [TEXT.replace("heart", f"heart{i}") for i in range(40)]
    config = QuotationsConfig(number=30, question="After {quotation}:")
    made = list(quotations(texts, config))
    assert len(made) == 30
    assert made == list(quotations(reversed(texts), config))  # their order does not matter
    for text, pairs in made:
        assert len(pairs) == 2
        for pair in pairs:
            quotation = pair.question.removeprefix("After ").removesuffix(":")
            assert len(quotation.split()) == 3
            assert text.count(quotation) == 1
            assert text[text.index(quotation) + len(quotation) :].startswith(f" {pair.answer}")
            assert 4 <= len(pair.answer.split()) <= 16
            assert "." not in pair.answer[:-1]  # not beyond the sentence


def test_short_texts_and_texts_that_repeat_themselves_are_not_quoted():
    assert not list(quotations(["Too short to be quoted."], QuotationsConfig()))
    assert not list(quotations(["so and so " * 20], QuotationsConfig()))


def test_a_question_without_a_place_for_the_quotation_is_a_mistake():
    with pytest.raises(ValueError, match="has no {quotation} in it"):
        QuotationsConfig(question="And then?")
