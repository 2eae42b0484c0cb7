"""Corpora for tests of the whole preparation: articles in several files, with copies and tests in them.

Texts are made of sentences in which comprehension finds its tasks; some are near copies of others,
within a corpus and across two, some are said twice, and one holds a test question.
"""

import json
import random
from pathlib import Path

SUBJECTS = ("metformin", "the kidney", "an inherited mutation", "chronic inflammation", "the vaccine",
            "insulin resistance", "a small tumour", "the immune response", "haemoglobin", "the enzyme")  # fmt: skip
VERBS = ("raises", "lowers", "changes", "prevents", "accompanies", "precedes", "limits", "sustains")
OBJECTS = ("the concentration of glucose in blood", "the risk of heart failure in older adults",
           "the growth of cells in bone marrow", "the number of platelets after surgery",
           "the absorption of iron in the intestine", "blood pressure during pregnancy")  # fmt: skip
LINKS = ("However", "Therefore", "In addition", "For this reason", "In other words", "Moreover")
QUESTION = (
    "Do patients with stable coronary artery disease benefit from an early invasive strategy when "
    "they are treated with modern drugs and followed for five years"
)


def sentence(rng: random.Random) -> str:
    """One sentence of 12 to 20 words."""
    words = f"{rng.choice(SUBJECTS)} {rng.choice(VERBS)} {rng.choice(OBJECTS)}"
    return f"In study {rng.randrange(10**6)} {words} when {rng.choice(SUBJECTS)} {rng.choice(VERBS)} it"


def article(seed: int) -> dict:
    """A page with a title; some 120 words."""
    rng = random.Random(seed)
    sentences = [sentence(rng) + "." for _ in range(4)]
    for link in rng.sample(LINKS, 2):
        sentences.append(f"{link}, {sentence(rng).lower()}.")
    title = f"{rng.choice(SUBJECTS).capitalize()} and {rng.choice(OBJECTS)}"
    return {"title": title, "text": " ".join(sentences), "page": f"page{seed}"}


def edited(item: dict, seed: int) -> dict:
    """The page with two of its words changed."""
    rng = random.Random(seed)
    words = item["text"].split()
    for _ in range(2):
        words[rng.randrange(len(words))] = f"word{rng.randrange(99)}"
    return item | {"text": " ".join(words), "page": f"copy of {item['page']} {seed}"}


def write_corpora(folder: Path, *, num_files: int = 1, order: int = 0, pages: int = 90) -> None:
    """`a-*.jsonl` and `b-*.jsonl`: two corpora over some of the same pages, and a test's items.

    The lines are the same for any number of files; `order` shuffles them.
    """
    originals = [article(i) for i in range(pages)]
    a = [*originals, *(edited(item, 1) for item in originals[:20]), *originals[20:25]]
    a.append(article(900) | {"text": f"{article(900)['text']} {QUESTION}? Yes."})
    b = [
        *(edited(item, 2) for item in originals[10:30]),
        *(article(1000 + i) for i in range(pages)),
    ]
    for i, item in enumerate(b):
        item["question"] = f"What is known of case {i}?"
    for name, items in (("a", a), ("b", b)):
        lines = [json.dumps(item) + "\n" for item in items]
        random.Random(order).shuffle(lines)
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        for k in range(num_files):
            (target / f"{(k * 7 + order) % 10}{k}.jsonl").write_text("".join(lines[k::num_files]))


def recipe(out: Path, inputs: Path, tokenizer: str, **changes: object) -> dict:
    """Texts become comprehension, questions conversations; everything that is on by default is."""
    fields = {"text": "text", "title": "title"}
    return {
        "out_dir": str(out),
        "tokenizer": tokenizer,
        "seq_len": 512,
        "partitions": 4,
        "workers": 1,
        "heldout": {"fraction": 0.1},
        "corpora": {
            "reading": {
                "path": f"{inputs}/a/*.jsonl",
                "fields": fields,
                "convert": "comprehension",
                "comprehension": {"vocab_size": 500},
            },
            "plain": {"path": f"{inputs}/b/*.jsonl", "fields": fields | {"group": "page"}},
            "questions": {
                "path": f"{inputs}/b/*.jsonl",
                "fields": {"prompt": "question", "response": "text", "group": "page"},
                "convert": "conversation",
            },
        },
    } | changes
