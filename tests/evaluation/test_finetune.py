"""Tuning on a task's train split through data.prepare and train.py, then the test split."""

import json

import pytest

import train
from data.tokenizer import load_tokenizer
from evaluation import finetune
from evaluation.finetune import exchange, splits
from evaluation.prompt import ask
from evaluation.task import load_task

TASK = """
data:
  sources:
    all: {path: PLACE, fields: {id: id, question: question, options: options, gold: gold}}
    train: {path: PLACE, where: {split: train}, fields: {id: id, question: question, options: options, gold: gold}}
    test: {path: PLACE, where: {split: WHICH}, fields: {id: id, question: question, options: options, gold: gold}}
prompts: ["{question} ->", "What about {question}?"]
shots: 2
metric: accuracy
"""
COLOURS = ("red", "blue")


@pytest.fixture
def task_file(tmp_path):
    """Items whose answer stands in the question, so a little tuning learns them."""

    def write(which="test"):
        rows = [
            {
                "id": str(i),
                "question": f"number {i} is {COLOURS[i % 2]}",
                "options": list(COLOURS),
                "gold": i % 2,
                "split": "train" if i < 48 else "test",
            }
            for i in range(64)
        ]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        file = tmp_path / "colours.yaml"
        text = TASK.replace("PLACE", str(tmp_path / "rows.jsonl")).replace("WHICH", which)
        file.write_text(text)
        return str(file)

    return write


def test_splits_must_exclude_each_other(task_file):
    train_items, test_items = splits(load_task(task_file()))
    assert (len(train_items.items), len(test_items.items)) == (48, 16)
    with pytest.raises(ValueError, match="48 items are in both train and test"):
        splits(load_task(task_file("train")))
    with pytest.raises(ValueError, match="tuning needs sources named train and test"):
        splits(load_task("mqp"))


def test_what_is_learned_is_what_is_asked(task_file):
    task = load_task(task_file()).model_copy(update={"shots": 0})
    fixed = task.model_copy(update={"prompts": task.prompts[:1]})
    items = splits(fixed)[0].items
    exchanges = [exchange(question, fixed) for question in ask(items, (), fixed)]
    assert exchanges[1] == ("number 1 is blue ->", "blue")
    gap = load_task("winogrande").model_copy(update={"shots": 0})
    from data.benchmarks import Item

    item = Item(
        "1", "The cup fell off the shelf because the _ was loose.", ("cup", "shelf"), gold=(1,)
    )
    (question,) = ask([item], (), gap)
    prompt, answer = exchange(question, gap)
    assert f"{prompt} {answer}" == "The cup fell off the shelf because the shelf was loose."


@pytest.mark.slow
def test_a_model_is_tuned_and_asked_and_not_tuned_twice(
    sample_streams, tmp_path, task_file, capsys
):
    whole = {
        "run_dir": str(tmp_path / "base"),
        "tokenizer": str(sample_streams / "tokenizer"),
        "model": {"preset": "tiny", "num_layers": 1, "embed_dim": 48, "mlp_dim": 64},
        "streams": {"biomedicine": {"path": str(sample_streams / "biomedicine")}},
        "train": {
            "num_steps": 1,
            "seq_len": 128,
            "global_batch_rows": 8,
            "compute_dtype": "float32",
        },
        "optimizer": {"peak_lr": 1e-2, "warmup_steps": 1},
        "tracking": {"tensorboard": False},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(whole))
    assert train.main([str(path)]) == 0
    capsys.readouterr()
    words = [str(tmp_path / "base"), f"--task={task_file()}", f"--out={tmp_path / 'out'}"]
    assert finetune.main(words) == 0
    said = capsys.readouterr().out
    assert "colours as it is  accuracy" in said
    assert "colours tuned     accuracy" in said

    run = tmp_path / "out" / "run"
    recipe = (run / "recipe.yaml").read_text()
    assert "warmup_steps: 0" in recipe
    assert f"init_from: {tmp_path / 'base'}" in recipe
    rows = json.loads((tmp_path / "out" / "data" / "train" / "stream.json").read_text())
    steps = -(-rows["num_rows"] // 8)
    assert f"num_steps: {steps}" in recipe, "one epoch"
    assert rows["supervised"] == rows["tokens"] - 48, "all tokens are learned but each text's first"
    tokenizer = load_tokenizer(str(run / "tokenizer"))
    assert tokenizer.fingerprint == rows["tokenizer"]
    tuned = json.loads((tmp_path / "out" / "tuned.json").read_text())["value"]
    assert tuned["items"] == 16
    assert tuned["shots"] == 0
    assert tuned["model"] == str(tmp_path / "base")

    before = (run / "metrics.jsonl").read_text()
    assert finetune.main(words) == 0
    assert (run / "metrics.jsonl").read_text() == before
    assert capsys.readouterr().out.count("colours") == 2
