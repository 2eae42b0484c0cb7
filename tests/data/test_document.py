"""Identity and choices of a document."""

import subprocess
import sys

import pytest

from data.document import Document, Turn, document_id, draw, partition_of


def test_the_id_is_of_roles_and_texts_and_never_changes():
    assert document_id([Turn("text", "Aspirin reduces fever. 文")]) == GOLDEN_ID
    same = [Turn("user", "ab"), Turn("assistant", "c")]
    assert document_id(same) == document_id(tuple(same))
    others = [
        [Turn("user", "a"), Turn("assistant", "bc")],
        [Turn("user", "abc")],
        [Turn("assistant", "ab"), Turn("user", "c")],
        [Turn("user", "ab"), Turn("assistant", "c"), Turn("user", "")],
    ]
    assert len({document_id(turns) for turns in [same, *others]}) == 5


def test_choices_hang_on_id_and_name_alone():
    assert draw("d1", "template").random() == draw("d1", "template").random()
    draws = {draw(i, c).random() for i in ("d1", "d2") for c in ("template", "cut", "d")}
    assert len(draws) == 6
    # "1" + "2x" and "12" + "x" are different questions.
    assert draw("12", "x").random() != draw("2", "x1").random()


@pytest.mark.parametrize("hash_seed", ["0", "1", "77"])
def test_the_hash_seed_has_no_say(hash_seed, root):
    code = (
        "from data.document import *; "
        "print(document_id([Turn('text', 'Aspirin reduces fever. 文')]), draw('d1', 'cut').randrange(10**9), "
        "partition_of('d1', 64))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": hash_seed},
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split() == [GOLDEN_ID, *GOLDEN_DRAWS]


def test_partitions_are_about_equal():
    counts = [0] * 16
    for number in range(8000):
        counts[partition_of(f"{number:024x}", 16)] += 1
    assert min(counts) > 400
    assert max(counts) < 600


def test_json_gives_the_document_back_in_one_line():
    turns = (Turn("user", "a\nb\u2028"), Turn("assistant", '"日本"'))
    document = Document("x", turns, "f:1", {"title": "t", "group": "g"})
    line = document.to_json()
    assert "\n" not in line
    assert Document.from_json(line) == document
    swapped = Document("x", turns, "f:1", {"group": "g", "title": "t"})
    assert swapped.to_json() == line


def test_an_unknown_role_is_refused():
    with pytest.raises(ValueError, match="'human' is none of text, system"):
        Turn("human", "hello")


# Written down once: documents, partitions and every choice of past runs hang on them.
GOLDEN_ID = "95c5663d655c3889ecaa3c5c"
GOLDEN_DRAWS = ["392608714", "30"]
