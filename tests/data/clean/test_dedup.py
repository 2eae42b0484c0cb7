"""Deduplication: what goes, what stays, and that every document that goes has one that stays."""

import random
from itertools import pairwise

import numpy as np
import pytest

from data.clean.dedup import WHOLE_BUCKET, candidates, settle
from data.clean.words import jaccard, word_hashes
from data.document import Document
from tests.data.clean.judged import Judged, conversation, judge, text


def page(seed: int, length: int = 200) -> list[str]:
    rng = random.Random(seed)
    return [f"w{rng.randrange(5000)}" for _ in range(length)]


def edit(words: list[str], share: float, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [f"new{rng.randrange(9999)}" if rng.random() < share else word for word in words]


def hashes(document: Document) -> np.ndarray:
    return word_hashes("\n".join(turn.text for turn in document.turns))


def check_partners(judged: Judged, documents: list[Document], threshold: float) -> int:
    """Every removed document names one that is kept, or held out, and like it."""
    by_id = {document.id: document for document in documents}
    held = {d.id for d in documents if judged.verdicts.is_held_out(d)}
    number = 0
    for corpus in judged.tallies:
        for id_, reason in judged.reasons(corpus).items():
            if "duplicate" not in reason:
                continue
            partner = reason.rpartition(" of ")[2]
            assert partner in (held if "held-out" in reason else judged.ids - held)
            assert jaccard(hashes(by_id[id_]), hashes(by_id[partner])) >= threshold
            number += 1
    return number


@pytest.mark.parametrize(("threshold", "share"), [(0.8, 0.0), (0.8, 0.02), (0.65, 0.05)])
def test_planted_copies_within_and_across_corpora_are_removed(threshold, share):
    originals = [text(" ".join(page(i))) for i in range(400)]
    changed = [edit(page(i), share, i + 10_000) for i in range(400)]
    if share == 0:  # equal but for case and wrapping
        changed = [[w.upper() if i % 7 else w + "\n" for i, w in enumerate(c)] for c in changed]
    copies = [text(" ".join(words)) for words in changed]
    corpora = {"a": originals + copies[:200], "b": copies[200:]}
    judged = judge(corpora, {"dedup": {"threshold": threshold}})
    above = [
        (a, b)
        for a, b in zip(originals, copies, strict=True)
        if jaccard(hashes(a), hashes(b)) >= threshold
    ]
    assert len(above) > 380
    assert np.mean([len({a.id, b.id} & judged.ids) == 1 for a, b in above]) >= 0.99
    removed = check_partners(judged, originals + copies, threshold)
    assert removed == len(originals) + len(copies) - len(judged.ids)
    # and of those that are further away, none
    assert removed <= len(above)


def test_of_two_copies_the_one_of_the_first_corpus_stays_else_the_smaller_id():
    pages = [page(i) for i in range(60)]
    first = [text(" ".join(p)) for p in pages[:30]]
    second = [text(" ".join(edit(p, 0.01, 7))) for p in pages[:30]]
    both = {"second": second, "first": first}
    judged = judge(both, order=["first", "second"])
    assert judged.ids == {d.id for d in first}
    judged = judge(both, {"dedup": {"priority": ["second"]}}, order=["first", "second"])
    assert judged.ids == {d.id for d in second}
    judged = judge({"one": first + second})
    assert judged.ids == {min(a.id, b.id) for a, b in zip(first, second, strict=True)}


@pytest.mark.parametrize("threshold", [0.5, 0.65, 0.8])
def test_the_survivors_are_those_of_comparing_everything_with_everything(threshold):
    rng = random.Random(threshold)
    corpora: dict[str, list[Document]] = {"a": [], "b": []}
    for family in range(25):
        for _ in range(rng.randrange(1, 9)):
            words = edit(
                page(family, 80), rng.choice([0.0, 0.01, 0.03, 0.06]), rng.randrange(10**6)
            )
            corpora[rng.choice("ab")].append(text(" ".join(words)))
    kept: list[tuple[str, Document]] = []
    shingled = {d.id: hashes(d) for documents in corpora.values() for d in documents}
    for name, documents in corpora.items():
        for document in sorted(documents, key=lambda d: d.id):
            this = shingled[document.id]
            if all(jaccard(this, shingled[other.id]) < threshold for _, other in kept):
                kept.append((name, document))
    judged = judge(corpora, {"dedup": {"threshold": threshold}})
    left = [(name, document) for name in corpora for document in judged.kept[name]]
    assert left == kept
    assert 25 <= len(kept) < sum(map(len, corpora.values()))


def test_the_order_of_documents_and_files_does_not_matter():
    documents = [text(" ".join(edit(page(i % 40), 0.04, i))) for i in range(160)]
    documents += documents[:20]
    expected = judge({"c": documents}, {"dedup": {"threshold": 0.7}})
    for seed in range(3):
        random.Random(seed).shuffle(documents)
        judged = judge({"c": documents}, {"dedup": {"threshold": 0.7}}, files=1 + seed * 3)
        assert [d.id for d in judged.kept["c"]] == [d.id for d in expected.kept["c"]]
        assert judged.reasons("c") == expected.reasons("c")
    assert 40 <= len(expected.ids) < 160


def test_of_a_chain_only_what_is_like_one_that_stays_goes():
    """A ~ B ~ C, A unlike C: with B gone because of A, C stays."""
    chains = []
    for seed in range(40):
        words = page(seed)
        chain = [words]
        for step in range(3):
            words = [*words]
            for k in range(6):
                words[5 + 10 * k + 60 * step] = f"step{step}{k}"
            chain.append(words)
        chains.append([text(" ".join(w)) for w in chain])
    documents = [d for chain in chains for d in chain]
    near = [jaccard(hashes(a), hashes(b)) for c in chains for a, b in pairwise(c)]
    far = [jaccard(hashes(c[0]), hashes(c[2])) for c in chains]
    assert min(near) > 0.82 > 0.74 > max(far)
    judged = judge({"c": documents})
    assert check_partners(judged, documents, 0.8) == len(documents) - len(judged.ids)
    for chain in chains:
        left = [d for d in chain if d.id in judged.ids]
        assert 2 <= len(left) <= 3  # never all of it, never one alone
        for a in left:
            for b in left:
                assert a is b or jaccard(hashes(a), hashes(b)) < 0.8


def test_equal_documents_are_kept_once_also_under_one_id():
    document = text("Twice the same page, word for word.")
    other = text("twice  the same PAGE, word for word.")
    judged = judge({"a": [document, document, other], "b": [document]})
    assert [len(kept) for kept in judged.kept.values()] == [1, 0]
    assert judged.tallies["a"].counts["removed"] == {"dedup": {"duplicate": 2}}
    assert judged.tallies["b"].counts["removed"] == {"dedup": {"duplicate": 1}}


def test_what_goes_for_another_reason_keeps_nobody_away():
    a, b = sorted((text(" ".join(page(1))), text(" ".join(page(1)) + " end")), key=lambda d: d.id)
    assert judge({"c": [a, b]}).ids == {a.id}
    assert judge({"c": [a, b]}, dropped=frozenset([a.id])).ids == {b.id}


def test_texts_and_conversations_are_not_compared():
    question, answer = "What is it?", " ".join(page(1))
    documents = [text(f"{question}\n{answer}"), conversation(question, answer)]
    assert len(judge({"c": documents}).ids) == 2


def test_conversations_with_one_passage_and_other_answers_stay():
    passage = " ".join(page(1, 400))
    asked = [conversation(f"{passage}\nIs it large?", "No."),
             conversation(f"{passage}\nIs it small?", "Yes.")]  # fmt: skip
    assert jaccard(hashes(asked[0]), hashes(asked[1])) > 0.9
    assert len(judge({"c": asked}).ids) == 2
    again = [conversation(f"{passage}\nIs it large?", "No."),
             conversation(f"{passage}\nIs it large really?", "No.")]  # fmt: skip
    assert len(judge({"c": again}).ids) == 1


def test_sums_that_differ_in_a_sign_are_two():
    documents = [text("What is 3 + 4?"), text("What is 3 - 4?"), text("What is 3 * 4?")]
    assert len(judge({"c": documents}).ids) == 3


def test_held_out_documents_win():
    """A copy of a held-out document goes, whatever its corpus and id; the held-out one stays."""
    from data.split import is_held_out

    groups = [f"g{i}" for i in range(200)]
    held = [g for g in groups if is_held_out(g, 0.3)][:30]
    trained = [g for g in groups if not is_held_out(g, 0.3)][:30]
    kept_back = [text(" ".join(page(i)), group=g) for i, g in enumerate(held)]
    copies = [
        text(" ".join(edit(page(i), 0.01, i)) + " end", group=g) for i, g in enumerate(trained)
    ]
    judged = judge({"first": copies, "second": kept_back}, fraction=0.3)
    assert all(map(judged.verdicts.is_held_out, kept_back))
    assert not judged.kept["first"]
    reasons = judged.tallies["first"].counts["removed"]["dedup"]
    assert reasons == {"near duplicate of held-out": 30}
    assert check_partners(judged, copies + kept_back, 0.8) == 30


def test_nothing_is_removed_where_it_is_turned_off():
    document = text("the same")
    assert len(judge({"c": [document] * 3}, {"dedup": {"enabled": False}}).kept["c"]) == 3
    near = [text(" ".join(page(1))), text(" ".join(page(1)) + " end")]
    assert len(judge({"c": near}, {"dedup": {"threshold": 1}}).ids) == 2


def test_texts_without_a_word_are_compared_by_their_marks():
    documents = [text("!!!"), text("???"), text("!!! ")]
    assert len(judge({"c": documents}).ids) == 2


def test_an_unknown_corpus_in_priority_is_named():
    with pytest.raises(ValueError, match=r"clean\.dedup\.priority: 'x'.*\(c\)"):
        judge({"c": []}, {"dedup": {"priority": ["x"]}})


def test_every_pair_of_a_small_bucket_is_a_candidate():
    keys = np.array([5, 7, 5, 9, 7, 5])
    earlier, later = candidates(keys)
    assert sorted(zip(earlier.tolist(), later.tolist(), strict=True)) == [
        (0, 2), (0, 5), (1, 4), (2, 5),
    ]  # fmt: skip
    assert not len(candidates(np.zeros(0, np.uint64))[0])


def test_a_large_bucket_makes_few_pairs_and_its_first_members_meet_all():
    number = 20 * WHOLE_BUCKET
    earlier, later = candidates(np.zeros(number, np.uint64))
    found = set(zip(earlier.tolist(), later.tolist(), strict=True))
    assert {(a, b) for a in range(WHOLE_BUCKET) for b in range(a + 1, number)} <= found
    assert {(a, a + 1) for a in range(number - 1)} <= found
    assert len(earlier) < number * 80


def test_settling_follows_the_order_of_keeping():
    like = {(0, 1), (1, 2), (2, 3), (1, 3)}
    pairs = sorted((b, a) for a, b in like)
    gone = settle(4, pairs, stays=lambda place: False, alike=lambda a, b: (a, b) in like)
    assert gone.tolist() == [-1, 0, -1, 2]
    gone = settle(4, pairs, stays=lambda place: place == 1, alike=lambda a, b: (a, b) in like)
    assert gone.tolist() == [-1, -1, 1, 1]
