"""lm-evaluation-harness with our class: the same figures as with its own on the exported folder."""

import argparse
import copy
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from data.chat import ChatConfig, encode_prompt
from data.document import Turn
from evaluation.harness import GROUPS, with_groups
from evaluation.harness_config import sampling_of
from evaluation.harness_model import HarnessModel
from tests.model.tiny_models import make_folder, make_tokenizer, sample_texts

pytest.importorskip("lm_eval")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A small model in a Hugging Face folder, trained for a moment."""
    import torch

    torch.set_num_threads(1)  # threads of so small a model wait for each other
    folder = tmp_path_factory.mktemp("harness")
    make_folder(folder, "grouped", make_tokenizer(folder))
    return folder


@pytest.fixture(scope="module")
def ours(folder) -> Any:
    from evaluation.harness_model import lm_class

    return lm_class()(pretrained=str(folder), dtype="float32", devices=1, slots=8)


@pytest.fixture(scope="module")
def theirs(folder) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=4)


def requests(*args: Any) -> list[Any]:
    return [SimpleNamespace(args=one) for one in args]


# --- against lm-eval's own class ------------------------------------------------------------------

SENTENCES = [text.split(". ")[0] for text in sample_texts()[:8]]


def test_log_likelihoods_are_those_of_lm_evals_own_class(ours, theirs):
    """Options that share a context, a context that ends with a space, an empty one, a long one."""
    pairs = [
        (f"Question: {s[:40]}\nAnswer:", f" {o}")
        for s in SENTENCES
        for o in ("yes", "no it is not")
    ]
    pairs += [
        ("Trailing ", "space"),
        ("", "Nothing before this."),
        (" ".join(SENTENCES * 9), " end"),
    ]
    before = ours.counts["cut"]
    found = ours.loglikelihood(requests(*pairs), disable_tqdm=True)
    expected = theirs.loglikelihood(requests(*pairs), disable_tqdm=True)
    assert np.allclose([f[0] for f in found], [e[0] for e in expected], atol=1e-4)
    assert [f[1] for f in found] == [bool(e[1]) for e in expected]
    assert ours.counts["cut"] == before + 1  # the long one
    assert ours.get_model_info()["prompts_cut"] == ours.counts["cut"]


def test_the_likeliest_continuation_is_known(ours):
    """What the model itself writes is greedy, and another text is not."""
    prompt = f"{SENTENCES[0][:30]}"
    (text,) = ours.generate_until(requests((prompt, {"max_gen_toks": 6, "until": []})))
    own, other = ours.loglikelihood(requests((prompt, text), (prompt, " zebra")), disable_tqdm=True)
    assert ours.tok_encode(prompt + text)[: len(ours.tok_encode(prompt))] == ours.tok_encode(prompt)
    assert own[1]
    assert not other[1]


def test_whole_texts_are_scored_alike(ours, theirs):
    """Shorter than a window, and of several windows."""
    texts = [(SENTENCES[0],), (" ".join(sample_texts()[:6]),)]
    assert len(ours.tok_encode(texts[1][0])) > 2 * ours.max_length
    found = ours.loglikelihood_rolling(requests(*texts), disable_tqdm=True)
    expected = theirs.loglikelihood_rolling(requests(*texts), disable_tqdm=True)
    assert np.allclose(found, expected, rtol=1e-5)


def test_texts_are_those_of_lm_evals_own_class(ours, theirs):
    """Greedy, with stop strings; a first space is left out by both, a long prompt is cut."""
    settings = {"until": [".", "\n\n"], "max_gen_toks": 24, "do_sample": False, "temperature": 0.0}
    prompts = [(s[: 20 + 5 * i], dict(settings)) for i, s in enumerate(SENTENCES)]
    prompts.append((" ".join(SENTENCES * 9), dict(settings)))
    found = ours.generate_until(requests(*prompts), disable_tqdm=True)
    for text, prompt in zip(found, prompts, strict=True):  # one by one: padding moves last digits
        assert [text] == theirs.generate_until(requests(prompt), disable_tqdm=True)
    assert not any("." in text for text in found)


def test_a_run_of_lm_eval_gives_the_same_metrics(ours, theirs, tmp_path):
    """Through its tasks, prompts, filters and metrics: choice with acc and acc_norm, and texts."""
    from tests.benchmarks.harness import compare

    rows = [
        {"question": s[:60], "options": [s[60:75], s[75:99], "no"], "gold": i % 3}
        for i, s in enumerate(SENTENCES)
    ]
    tasks = write_tasks(tmp_path, rows)
    compared = compare(ours, theirs, tasks, 8, tmp_path)
    for task in compared:
        assert task.same, task
        assert task.items
        assert task.max_difference < 1e-4
    assert compared[0].theirs.keys() == {"acc,none", "acc_norm,none"}


def write_tasks(folder: Path, rows: list[dict[str, Any]]) -> list[str]:
    """Two tasks over the same rows, as lm-eval reads them."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(folder / "rows.jsonl")},
            "cache_dir": str(folder / "cache"),
        },
        "test_split": "test",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "metadata": {"version": 1},
    }
    mean = {"aggregation": "mean", "higher_is_better": True}
    choice = {
        "task": "small_choice",
        "output_type": "multiple_choice",
        "doc_to_target": "gold",
        "doc_to_choice": "options",
        "metric_list": [{"metric": m} | mean for m in ("acc", "acc_norm")],
    }
    text = {
        "task": "small_text",
        "output_type": "generate_until",
        "doc_to_target": "{{options[gold]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8},
        "metric_list": [{"metric": "exact_match"} | mean],
    }
    for task in (choice, text):
        (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump(data | task))
    return [choice["task"], text["task"]]


# --- tokens and conversations ---------------------------------------------------------------------


def test_a_conversation_has_the_tokens_that_it_has_elsewhere(ours):
    """Special tokens of the template are special, the same strings in a message are text."""
    model = copy.copy(ours)
    model._chat = ChatConfig(template="plain")
    assert {"<s>", "</s>"} <= set(model.tokenizer.special_ids)
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What does </s> mean?"},
        {"role": "assistant", "content": "An end."},
        {"role": "user", "content": "And <s>?"},
    ]
    turns = tuple(Turn(m["role"], m["content"]) for m in talk)
    expected = encode_prompt(turns, model.tokenizer, model._chat, add_bos=True).tolist()
    text = model.apply_chat_template(talk)
    assert model.tok_encode(text) == expected
    assert expected.count(model.tokenizer.bos_id) == 1
    assert model.tokenizer.eos_id not in expected
    begun = model.apply_chat_template(
        [*talk, {"role": "assistant", "content": "It is"}], add_generation_prompt=False
    )
    assert begun == text + "It is"


def test_settings_of_a_task_become_ours():
    greedy = sampling_of({"until": ["\n", ""], "max_gen_toks": 7, "do_sample": False}, 0)
    assert (greedy.temperature, greedy.max_new_tokens, greedy.stop) == (0.0, 7, ("\n",))
    drawn = sampling_of({"do_sample": True, "temperature": 0.8, "top_p": 0.9, "top_k": 5}, 3)
    assert (drawn.temperature, drawn.top_p, drawn.top_k, drawn.seed) == (0.8, 0.9, 5, 3)
    assert drawn.max_new_tokens == 256
    with pytest.raises(ValueError, match="num_beams: not known"):
        sampling_of({"num_beams": 4}, 0)


def test_a_request_that_is_repeated_is_sampled_anew(ours):
    drawn = {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 1.5}
    first, second, other = ours.generate_until(
        requests(("The", drawn), ("The", drawn), ("A", drawn)), disable_tqdm=True
    )
    assert first != second
    assert ours.generate_until(requests(("The", drawn)), disable_tqdm=True) == [first]
    assert other


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "pretrained: "),
        ({"pretrained": "FOLDER", "max_len": 12}, "max_len: .*there are: pretrained, step"),
        ({"pretrained": "FOLDER", "dtype": "int8"}, "dtype: int8"),
        ({"pretrained": "FOLDER", "max_length": 100_000}, "max_length: 100000"),
        ({"pretrained": "/nowhere"}, "/nowhere"),
        ({"pretrained": "FOLDER", "step": 3}, "not a run directory"),
        ({"pretrained": "FOLDER", "devices": 99}, "devices: 99"),
    ],
)
def test_wrong_settings_are_said(folder, settings, told):
    given = {k: str(folder) if v == "FOLDER" else v for k, v in settings.items()}
    with pytest.raises(ValueError, match=told):
        HarnessModel(**given)


def test_a_continuation_longer_than_the_window_is_said(ours):
    model = copy.copy(ours)
    model.max_length = 8
    with pytest.raises(ValueError, match="max_length: 8 tokens, but a continuation"):
        model.loglikelihood(requests(("a", " word" * 20)), disable_tqdm=True)
    with pytest.raises(ValueError, match="leaves no room"):
        model.generate_until(requests(("a", {"until": [], "max_gen_toks": 8})))


# --- the group ------------------------------------------------------------------------------------


def test_the_group_fixes_the_published_settings(monkeypatch):
    """lm-eval's own tasks, with the leaderboard's examples; MMLU's subjects keep their names."""
    import lm_eval
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import TaskManager

    monkeypatch.setattr(ConfigurableTask, "__init__", _only_config)
    tasks = Path(lm_eval.__file__).parent / "tasks"
    names = ("arc", "hellaswag", "mmlu/default", "truthfulqa", "winogrande", "gsm8k")
    manager = TaskManager(
        include_path=[GROUPS, *(tasks / name for name in names)], include_defaults=False
    )
    loaded = manager.load(["open_llm_leaderboard"])
    shots = {name: task.config.num_fewshot for name, task in loaded["tasks"].items()}
    subjects = {name for name in shots if name.startswith("mmlu_")}
    assert len(subjects) == 57
    assert {shots[name] for name in subjects} == {5}
    assert {k: v for k, v in shots.items() if k not in subjects} == {
        "arc_challenge": 25,
        "hellaswag": 10,
        "truthfulqa_mc2": 0,
        "winogrande": 5,
        "gsm8k": 5,
    }
    for name in ("arc_challenge", "hellaswag", "winogrande", "gsm8k"):
        assert loaded["tasks"][name].config.fewshot_split == "train"


def _only_config(self: Any, config: dict[str, Any]) -> None:
    """A task's configuration without its data set, which is on the hub."""
    from lm_eval.config.task import TaskConfig

    self._config = TaskConfig(**config)


def test_the_users_own_tasks_stay_beside_the_group(tmp_path):
    """Given as a flag, or in lm-eval's --config file."""
    (tmp_path / "run.yaml").write_text("include_path: from_file\n")

    def included(**options: Any) -> list[str]:
        return with_groups(argparse.Namespace(**options)).include_path

    config = str(tmp_path / "run.yaml")
    assert included(include_path=None) == [str(GROUPS)]
    assert included(include_path="mine", config=config) == [str(GROUPS), "mine"]
    assert included(include_path=None, config=config) == [str(GROUPS), "from_file"]


@pytest.mark.slow
def test_no_task_of_lm_eval_has_the_groups_name():
    import lm_eval

    pattern = "^(group|task|tag): *open_llm_leaderboard *$"
    tasks = str(Path(lm_eval.__file__).parent / "tasks")
    found = subprocess.run(["grep", "-rE", pattern, tasks, "--include=*.yaml"], capture_output=True)
    assert found.returncode == 1


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_is_lm_evals_own(folder, tmp_path):
    """Its options are kept: limit, samples, cache, output; what was answered is not asked again."""
    rows = [{"question": s[:60], "options": [s[60:75], "no"], "gold": 0} for s in SENTENCES]
    tasks = write_tasks(tmp_path, rows)
    words = [
        *("run", "--model", "lectern", "--limit", "4", "--log_samples"),
        *("--model_args", f"pretrained={folder},dtype=float32,devices=1"),
        *("--tasks", ",".join(tasks), "--include_path", str(tmp_path)),
        *("--output_path", str(tmp_path / "out"), "--use_cache", str(tmp_path / "kept")),
    ]

    def run(module: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", module, *words], cwd=ROOT, capture_output=True, text=True
        )

    done = run("evaluation.harness", *words)
    assert done.returncode == 0, done.stderr
    assert "small_choice" in done.stdout
    (results,) = (tmp_path / "out").rglob("results_*.json")
    record = json.loads(results.read_text())
    assert record["config"]["add_bos_token"] is True
    assert record["n-samples"]["small_choice"] == {"original": 8, "effective": 4}
    assert len(list((tmp_path / "out").rglob("samples_*.jsonl"))) == 2
    again = run("evaluation.harness", *words)
    assert "Cached requests: 8, Requests remaining: 0" in again.stderr
    shown = run("evaluation.leaderboard", str(tmp_path / "out"))
    assert shown.returncode == 0, shown.stderr
    assert "| small_choice | 0 | acc | " in shown.stdout


@pytest.mark.slow
def test_general_tasks_of_real_text_give_the_same_metrics(realdata, folder):
    """ARC, WinoGrande, BoolQ, PIQA and GSM8K; `python -m tests.benchmarks.harness` takes 100 each."""
    from lm_eval.models.huggingface import HFLM

    from evaluation.harness_model import lm_class
    from tests.benchmarks.harness import TASKS, compare

    ours = lm_class()(pretrained=str(folder), dtype="float32", devices=1)
    theirs = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=4)
    compared = compare(ours, theirs, [f"local_{task}" for task in TASKS], 25)
    for task in compared:
        assert task.same, task
        assert task.max_difference < 2e-4
