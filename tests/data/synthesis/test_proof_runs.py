"""The proof's one command over made pages: all of its steps, a few of each, and once more."""

import gzip
import json
import os
import re
import subprocess
import sys

import pytest

from data.document import draw

KINDS = {
    "What is (are) {}?": "{} is a condition in which the {} does not {} as it should.",
    "What are the symptoms of {}?": "People with {} may feel that the {} begins to {} at night.",
    "What causes {}?": "A change of the {1} can lead to {0} when it starts to {2} too early.",
}
ORGANS = ("heart", "liver", "spleen", "kidney", "stomach", "skin", "bone", "nerve", "lung", "eye")
VERBS = ("swell", "grow", "bleed", "harden", "shrink", "itch", "move", "close", "open", "heal")
SYLLABLES = ("ar", "bel", "cor", "den", "fim", "gal", "hon", "jut", "kam", "lor", "mip", "nus")


def made_pages(number: int):
    for i in range(number):
        random = draw(f"page {i}", "made")
        name = "".join(random.sample(SYLLABLES, 3)) + "ia"
        for kind, says in KINDS.items():
            said = says.format(name, random.choice(ORGANS), random.choice(VERBS))
            yield {
                "focus": name,
                "question": kind.format(name),
                "answer": f"{said} {random.choice(ORGANS).capitalize()} and {random.choice(VERBS)} "
                f"are words of sentence {i}.\n{name.capitalize()} is defined as a disease that "
                f"swells the {random.choice(ORGANS)} {i} times. The disease is common. Therefore, "
                f"it is seen in {i} of all days.",
                "url": f"page {i}",
            }


def made_abstracts(number: int):
    for i in range(number):
        yield {
            "pmid": f"{i}",
            "split": "train",
            "contexts": f"We looked at {i} rats with a swollen {ORGANS[i % 10]} over a year.",
            "question": f"Does the {ORGANS[i % 10]} heal in {i} rats?",
            "long_answer": f"The {ORGANS[i % 10]} of {i} rats did heal.",
            "final_decision": "yes",
        }


def command(root, path):
    return subprocess.run(
        [sys.executable, "-m", "data.synthesis.proof", str(path)],
        cwd=root,
        # One device, not the tests' eight.
        env=os.environ | {"LECTERN_REALDATA": str(path.parent), "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@pytest.mark.slow
def test_all_steps_run_and_a_second_time_they_are_done(tmp_path, root):
    for name, rows in (("medquad", made_pages(80)), ("pubmedqa_labeled", made_abstracts(60))):
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    configs, heldout = "configs/instruct", f"{tmp_path}/tuning/pages/heldout/documents.jsonl.zst"
    streams = ("lists", "quotations", "recombined", "mined", "abstracts", "pages")
    few = (
        "train.num_steps=3 train.global_batch_rows=2 optimizer.warmup_steps=1 eval.every_steps=3 "
        f"model.num_layers=1 model.embed_dim=32 tokenizer={tmp_path}/tuning/tokenizer"
    )
    commands = [
        f"data.synthesis.pages {configs}/proof_pages.yaml out_dir={tmp_path}/texts "
        "recombined.number=80 quotations.number=60 lists.number=60 lists.vocabulary=50 "
        "passages.min_mined_pairs=1",
        f"data.prepare {configs}/proof_synthesizer_data.yaml out_dir={tmp_path}/tuning "
        "train_tokenizer.vocab_size=480 workers=1 "
        + " ".join(f"corpora.{name}.path={tmp_path}/texts/{name}.jsonl" for name in streams),
        f"train.py {configs}/proof_synthesizer.yaml prepare=null run_dir={tmp_path}/synthesizer "
        f"{few} optimizer.decay_steps=1 "
        + " ".join(f"streams.{name}.path={tmp_path}/tuning/{name}" for name in streams),
        f"data.prepare {configs}/proof_texts_data.yaml out_dir={tmp_path}/data workers=1 "
        f"tokenizer={tmp_path}/tuning/tokenizer generator.model={tmp_path}/synthesizer "
        f"corpora.augmented.path={heldout} corpora.raw.path={heldout} heldout.fraction=0.1 "
        "corpora.augmented.synthesis.max_new_tokens=24",
        *(
            f"train.py {configs}/proof_{name}.yaml run_dir={tmp_path}/{name} {few} "
            f"streams.{name}.path={tmp_path}/data/{name}"
            for name in ("augmented", "raw")
        ),
    ]
    recipe = {
        "out_dir": str(tmp_path / "proof"),
        "commands": commands,
        "synthesizer": str(tmp_path / "synthesizer"),
        "texts": heldout,
        "num_texts": 4,
        "max_new_tokens": 24,
        "engine": {"window": 512},
        "augmented": str(tmp_path / "augmented"),
        "raw": str(tmp_path / "raw"),
    }
    path = tmp_path / "proof.yaml"
    path.write_text(json.dumps(recipe))
    ran = command(root, path)
    assert "Figures and" in ran.stdout, ran.stdout + ran.stderr
    assert ran.returncode == 1  # three steps teach nobody to ask
    assert [
        line.split(":")[1] for line in ran.stdout.splitlines() if line.startswith("missed")
    ] == [
        " parse_rate",
        " accepted",
        " grounded",
    ]
    told = json.loads((tmp_path / "proof/proof.json").read_text())
    assert told["texts"] == 4
    assert [step for step, _ in told["augmented"]] == [0, 3] == [step for step, _ in told["raw"]]
    page = (tmp_path / "proof/proof.md").read_text()

    again = command(root, path)
    assert again.returncode == 1, again.stdout + again.stderr
    assert not re.search(r"^step [1-9]", again.stdout, re.MULTILINE)  # nothing is trained twice
    assert (tmp_path / "proof/proof.md").read_text() == page
