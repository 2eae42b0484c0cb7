"""What a run asks of itself: how much, when, and on the live weights."""

import json

import pytest

import train
from evaluation.ration import LEAST, Ration, ration

FIXTURE = """
data:
  sources:
    own:
      path: PLACE
      fields: {id: id, question: question, options: options, gold: gold}
prompts: ["Q: {question}\\nA:"]
metric: accuracy
"""


def cost(decided, seconds, evaluations):
    asked = sum(decided.is_due(i, evaluations - 1) for i in range(evaluations))
    return asked * sum(seconds[name] * count for name, count in decided.items.items())


@pytest.mark.parametrize("training_seconds", [50, 400, 3000, 1e6])
@pytest.mark.parametrize("evaluations", [2, 5, 21])
def test_a_ration_keeps_to_its_share(training_seconds, evaluations):
    sizes, seconds = {"long": 1000, "short": 300}, {"long": 0.05, "short": 0.01}
    decided = ration(
        sizes, seconds, training_seconds=training_seconds, evaluations=evaluations, share=0.05
    )
    assert cost(decided, seconds, evaluations) <= 0.05 * training_seconds
    if decided.every:
        assert all(LEAST <= decided.items[name] <= sizes[name] for name in sizes)
    if training_seconds == 1e6:
        assert decided == Ration(sizes, 1), "there is time for everything"


def test_time_that_a_small_task_does_not_need_goes_to_the_others():
    sizes, seconds = {"large": 10_000, "small": 30}, {"large": 0.01, "small": 0.01}
    decided = ration(sizes, seconds, training_seconds=2000, evaluations=2, share=0.05)
    assert decided.items == {"large": 4970, "small": 30}  # 50 s an evaluation, 5,000 items


def test_a_tight_budget_asks_less_often_and_then_not_at_all():
    sizes, seconds = {"task": 100}, {"task": 1.0}
    seldom = ration(sizes, seconds, training_seconds=2000, evaluations=21, share=0.05)
    assert seldom.every > 1
    assert seldom.items == {"task": LEAST} or seldom.items["task"] > LEAST
    assert seldom.is_due(0, 20)
    assert seldom.is_due(20, 20)
    assert not seldom.is_due(1, 20)
    never = ration(sizes, seconds, training_seconds=100, evaluations=21, share=0.05)
    assert not any(never.is_due(i, 20) for i in range(21))


def test_without_a_measure_of_time_the_least_is_asked():
    decided = ration({"t": 500}, {"t": 1.0}, training_seconds=None, evaluations=3, share=0.05)
    assert decided == Ration({"t": LEAST}, 1)


@pytest.fixture(scope="module")
def task_file(tmp_path_factory):
    """A task of 40 items with two options each."""
    folder = tmp_path_factory.mktemp("task")
    rows = [
        {"id": str(i), "question": f"is {i} even?", "options": ["yes", "no"], "gold": i % 2}
        for i in range(40)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = folder / "even.yaml"
    file.write_text(FIXTURE.replace("PLACE", str(folder / "rows.jsonl")))
    return str(file)


@pytest.fixture
def recipe(sample_streams, tmp_path, task_file):
    whole = {
        "run_dir": str(tmp_path / "run"),
        "tokenizer": str(sample_streams / "tokenizer"),
        "model": {"preset": "tiny", "num_layers": 1, "embed_dim": 48, "mlp_dim": 64},
        "streams": {"biomedicine": {"path": str(sample_streams / "biomedicine")}},
        "train": {
            "num_steps": 4,
            "seq_len": 128,
            "global_batch_rows": 8,
            "compute_dtype": "float32",
        },
        "eval": {
            "every_steps": 2,
            "tasks": [task_file],
            "task_budget": 1e6,
            "forgetting": {"streams": ["biomedicine"]},
        },
        "tracking": {"tensorboard": False},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(whole))
    return path


def lines(tmp_path):
    return list(map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()))


@pytest.mark.slow
def test_a_run_with_adapters_asks_its_tasks_with_them(recipe, tmp_path):
    code = train.main([str(recipe), "train.num_steps=2", "model.lora={rank: 2}"])
    assert code == 0
    asked = [x["step"] for x in lines(tmp_path) if "eval/even/accuracy" in x]
    assert asked == [0, 2]


def test_a_run_asks_its_tasks_on_its_own_mesh(recipe, tmp_path, task_file, capsys):
    assert train.main([str(recipe), "train.num_steps=2", "optimizer.schedule=constant"]) == 0
    scores = {
        x["step"]: x["eval/even/accuracy"] for x in lines(tmp_path) if "eval/even/accuracy" in x
    }
    assert list(scores) == [0, 2]
    assert "task     even" in capsys.readouterr().out.replace("  accuracy", "")
    changes = [
        x["forgetting/biomedicine/change"]
        for x in lines(tmp_path)
        if "forgetting/biomedicine/change" in x
    ]
    assert len(changes) == 1, "what is compared with step 0 is step 2"
    kept = json.loads((tmp_path / "run" / "tasks.json").read_text())
    assert kept["items"] == {"even": 40}

    # The same weights asked from outside give the same score.
    from evaluation.options import Scorer
    from evaluation.source import open_model
    from evaluation.task import load_task
    from evaluation.taskrun import open_items, run_task
    from tpu.config import MeshConfig
    from tpu.mesh import make_mesh

    model = open_model(str(tmp_path / "run"), make_mesh(MeshConfig()), step=2)
    scorer = Scorer(model.config, model.plan.mesh, model.plan.specs, bos_id=model.tokenizer.bos_id)
    task = load_task(task_file)
    result = run_task(task, open_items(task), model, scorer)
    assert result.value == scores[2]

    # The page of the run shows them; no time at all leaves them out, and that is said.
    assert "even" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_what_has_no_time_is_left_out_and_said(recipe, tmp_path):
    assert train.main([str(recipe), "train.num_steps=2", "eval.task_budget=1e-9"]) == 0
    said = [x for x in lines(tmp_path) if x.get("event") == "tasks_left_out"]
    assert "not asked" in said[0]["reason"]
    assert not [x for x in lines(tmp_path) if "eval/even/accuracy" in x]


def test_tasks_that_a_run_cannot_ask_are_refused_before_it_begins(recipe, tmp_path, capsys):
    with pytest.raises(SystemExit):
        train.main([str(recipe), "eval.tasks=[gsm8k]"])
    assert "eval.tasks: gsm8k writes its answers" in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoints" / "2").exists()
