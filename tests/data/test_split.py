"""The held-out split: a function of the group, and of nothing else."""

import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from data.clean.config import CleanConfig
from data.clean.record import SurveyFile, Table
from data.clean.stages import Cleaned
from data.clean.survey import Surveyor
from data.document import Document, Turn, document_id
from data.split import Split, decide, is_held_out


def document(*texts: str, group: str | None = None) -> Document:
    roles = ["text"] if len(texts) == 1 else ["user", "assistant"] * len(texts)
    turns = tuple(Turn(role, text) for role, text in zip(roles, texts, strict=False))
    return Document(document_id(turns), turns, "c", {} if group is None else {"group": group})


def page(seed: int, length: int = 200) -> list[str]:
    rng = random.Random(seed)
    return [f"w{rng.randrange(5000)}" for _ in range(length)]


def edit(words: list[str], share: float, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [f"new{rng.randrange(999)}" if rng.random() < share else word for word in words]


def decided(folder: Path, files: list[Iterable[Document]], fraction: float) -> Split:
    surveyor = Surveyor.of(CleanConfig(), corpora=["c"], fraction=fraction)
    run = folder / f"{random.random()}"
    for i, documents in enumerate(files):
        file = SurveyFile(run / f"{i}")
        for item in documents:
            file.add(surveyor.survey(item, Cleaned(item), "c"))
        file.close()
    return decide(Table([run / f"{i}" for i in range(len(files))], run).heads, fraction)


def test_the_share_of_groups_held_out_is_the_fraction():
    for fraction in (0.0, 0.02, 0.3):
        share = sum(is_held_out(f"group {i}", fraction) for i in range(20_000)) / 20_000
        assert share == pytest.approx(fraction, abs=0.01)


def test_more_is_held_out_as_the_fraction_grows_and_nothing_comes_back():
    for i in range(500):
        sides = [is_held_out(str(i), fraction) for fraction in (0.1, 0.2, 0.5, 0.9)]
        assert sides == sorted(sides)


def test_a_group_decides_alone():
    chosen = Split(0.5)
    for i in range(100):
        sides = {chosen.is_held_out(document(f"text {i} {j}", group=f"g{i}")) for j in range(5)}
        assert sides == {is_held_out(f"g{i}", 0.5)}


def test_near_duplicates_are_joined_and_different_texts_are_not(tmp_path):
    originals = [page(i) for i in range(200)]
    close = [edit(words, 0.01, i) for i, words in enumerate(originals)]
    documents = [document(" ".join(words)) for words in originals + close]
    chosen = decided(tmp_path, [documents], 0.5)
    pairs = list(zip(documents[:200], documents[200:], strict=True))
    joined = [a.id == b.id or {a.id, b.id} <= set(chosen.clusters) for a, b in pairs]
    assert np.mean(joined) > 0.97
    assert all(
        chosen.is_held_out(a) == chosen.is_held_out(b)
        for (a, b), j in zip(pairs, joined, strict=True)
        if j
    )
    assert 60 < sum(chosen.is_held_out(a) for a, _ in pairs) < 140  # no two pairs chained together


def test_spelling_and_a_conversation_around_it_do_not_hide_a_page(tmp_path):
    words = page(1)
    plain = document(" ".join(words))
    shouted = document(" ".join(words).upper().replace(" ", " -\n", 9) + "!!")
    quoted = document("What does it say?", " ".join(words))
    chosen = decided(tmp_path, [[plain], [shouted, quoted]], 0.5)
    assert {plain.id, shouted.id, quoted.id} == set(chosen.clusters)
    assert len(set(chosen.clusters.values())) == 1


def test_short_common_turns_join_nothing(tmp_path):
    documents = [document("What is this?", " ".join(page(i))) for i in range(50)]
    assert not decided(tmp_path, [documents], 0.5).clusters


def test_a_cluster_goes_where_its_groups_went(tmp_path):
    """A corpus without groups repeats pages of one that has them."""
    pages = [" ".join(page(i)) for i in range(80)]
    grouped = [document(text, group=f"url{i}") for i, text in enumerate(pages)]
    loose = [document(text + " end.") for text in pages]
    chosen = decided(tmp_path, [grouped, loose], 0.3)
    for a, b in zip(grouped, loose, strict=True):
        assert chosen.is_held_out(b) == chosen.is_held_out(a) == is_held_out(a.meta["group"], 0.3)
    assert any(map(chosen.is_held_out, loose))


def test_equal_texts_with_and_without_a_group_are_on_one_side(tmp_path):
    text = " ".join(page(3))
    for i in range(40):
        grouped, loose = document(text, group=f"url{i}"), document(text)
        assert grouped.id == loose.id
        chosen = decided(tmp_path, [[grouped], [loose]], 0.5)
        assert (
            chosen.is_held_out(loose) == chosen.is_held_out(grouped) == is_held_out(f"url{i}", 0.5)
        )


def test_files_and_order_do_not_matter(tmp_path):
    originals = [page(i) for i in range(60)]
    documents = [document(" ".join(edit(w, 0.02, k))) for k in range(3) for w in originals]
    documents += documents[:10]
    first = decided(tmp_path, [documents], 0.3)
    random.Random(1).shuffle(documents)
    second = decided(tmp_path, [documents[i::4] for i in range(4)], 0.3)
    assert first == second
    assert first.clusters


def test_nothing_is_held_out_at_fraction_zero(tmp_path):
    documents = [document("a b c"), document("a b c", group="g")]
    chosen = decided(tmp_path, [documents], 0.0)
    assert not any(map(chosen.is_held_out, documents))
