"""The candidate pool of the twelve published samples, before caps and sampling."""

from collections import Counter
from pathlib import Path

import pytest

from data.comprehension.language import load_language
from data.comprehension.mine import mine
from data.comprehension.mined import Mined
from tests.benchmarks.comprehension import relational, samples_vocabulary, table
from tests.data.comprehension.published import (
    NUM_SAMPLES,
    article,
    is_mined,
    published_tasks,
)


@pytest.fixture(scope="module")
def samples(realdata: Path) -> Path:
    return realdata / "adaptllm"


@pytest.fixture(scope="module")
def pools(samples: Path) -> list[list[Mined]]:
    language, vocabulary = load_language("en"), samples_vocabulary(samples)
    return [mine(article(samples, n), language, vocabulary) for n in range(NUM_SAMPLES)]


def test_the_published_tasks_are_read_back_from_the_output_files(samples: Path):
    kinds = Counter(
        task.kind for number in range(NUM_SAMPLES) for task in published_tasks(samples, number)
    )
    # 52 mined, less 3 topics that are measurements, 1 definition cut off, 10 twins.
    assert kinds == {"keyword": 21, "contradict": 10, "entail": 5, "neutral": 1, "similar": 1}
    assert kinds.total() == 38


def test_every_published_sound_task_is_in_the_pool(samples: Path, pools: list[list[Mined]]):
    for number, pool in enumerate(pools):
        text = article(samples, number)
        missing = [
            (task.kind, text[slice(*task.first)])
            for task in published_tasks(samples, number)
            if not is_mined(task, pool)
        ]
        assert not missing, f"sample {number}"


def test_at_least_24_related_pairs(pools: list[list[Mined]]):
    assert sum(len(relational(pool)) for pool in pools) >= 24


def test_no_measurement_is_a_topic(pools: list[list[Mined]]):
    topics = [task for pool in pools for task in pool if task.family == "topic"]
    assert topics
    assert not [task for task in topics if task.slots["verb"] in ("was about", "is about")]


def test_the_table_counts_what_is_there(samples: Path):
    last = table(samples).splitlines()[-3]
    assert last.startswith("| **all** |")
    assert last.endswith("| 38 | 38 |")
