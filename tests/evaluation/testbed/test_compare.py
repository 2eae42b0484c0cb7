"""Runs of the testbed: equal tokens, what is kept, which train on, and the whole command."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from evaluation.testbed import compare as compare_lib
from evaluation.testbed.compare import (
    Cell,
    cells_of,
    compare,
    measure_at,
    read_result,
)
from evaluation.testbed.config import TestbedConfig
from evaluation.testbed.figures import lines_of
from evaluation.testbed.report import picture, table
from evaluation.testbed.streams import make_world, shares
from tests.evaluation.testbed.tiny import TINY, tiny


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two variants of the tiny size to their one budget, by the command's own way."""
    out = tmp_path_factory.mktemp("testbed")
    config = tiny(
        out_dir=str(out),
        variants=["raw", "instructions"],
        wordings=[5],
        main_wordings=5,
        seeds=[0],
    )
    pool = _Inline()
    patch = pytest.MonkeyPatch()
    patch.setattr(compare_lib, "_workers", lambda _: pool)
    comparisons = compare(config)
    yield config, comparisons, pool, patch
    patch.undo()


class _Inline:
    """Runs jobs in this process, so that a test does not start another one."""

    def __init__(self):
        self.jobs = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, work, *arguments):
        from concurrent.futures import Future

        self.jobs += 1
        future = Future()
        future.set_result(work(*arguments))
        return future


def test_all_variants_see_equal_tokens(trained):
    config, comparisons, *_ = trained
    step = config.run.batch_rows * config.run.seq_len
    [comparison] = comparisons
    given = [
        measure_at(Path(config.out_dir), cell, comparison.budget)["tokens"]
        for cell in comparison.cells
    ]
    assert all(config.run.tokens <= tokens < config.run.tokens + step for tokens in given)


def test_tokens_are_shared_out_as_the_variant_says(trained):
    config, comparisons, *_ = trained
    for cell in comparisons[0].cells:
        result = read_result(Path(config.out_dir), cell)
        told = {name: stream["share"] for name, stream in result["streams"].items()}
        assert told == pytest.approx(shares(config, cell.variant))
        assert set(result["measures"]["6000"]["loss"]) <= set(told)


def test_a_finished_comparison_trains_nothing_again(trained):
    config, comparisons, pool, _ = trained
    done = pool.jobs
    assert compare(config) == comparisons
    assert pool.jobs == done == 2


def test_a_run_is_taken_on_from_its_checkpoint(trained):
    """Trained to one budget and on to the next, it is the run that went there at once."""
    config, comparisons, *_ = trained
    from evaluation.testbed.compare import _bench, _job

    cell = comparisons[0].cells[1]
    _job(config, cell, 9000)
    bench = _bench(config.model_dump_json())
    weights = shares(config, cell.variant)
    streams = [bench.streams[name, cell.wordings] for name in sorted(weights)]
    once = bench.trainer.run(
        streams, weights, seed=cell.seed, budget=9000, run_dir=config.out_dir + "/once"
    )
    kept = measure_at(Path(config.out_dir), cell, 9000)
    assert kept["steps"] == once.steps
    assert kept["tokens"] == once.tokens
    assert [tuple(a) for a in kept["answers"]] == [tuple(vars(a).values()) for a in once.answers]


def test_other_settings_do_not_go_into_the_same_folder(trained):
    config, *_ = trained
    with pytest.raises(ValueError, match="holds runs of other settings.*vocab_size: 1200 there"):
        compare(config.model_copy(update={"vocab_size": 1300}))


def test_the_report_shows_both_figures_of_every_variant(trained, tmp_path):
    config, comparisons, *_ = trained
    lines = lines_of(config, comparisons)
    text = table(config, lines)
    assert "answerable given memorised" in text
    for variant in config.variants:
        assert f"| {variant}" in text
    picture(config, lines, tmp_path / "figures.png")
    assert (tmp_path / "figures.png").read_bytes()[:4] == b"\x89PNG"


def test_all_of_a_comparison_train_on_where_one_has_memorised_too_little(tmp_path, monkeypatch):
    config = tiny(
        out_dir=str(tmp_path),
        variants=["raw", "mixed"],
        wordings=[1, 5],
        main_wordings=5,
        seeds=[0, 1],
        run={**TINY["run"], "extend": [1.5, 2.0]},
    )
    asked_for = []

    def run_all(pool, config, cells, budget):
        for cell in cells:
            asked_for.append((cell.name, budget))
            slow = cell == Cell("mixed", 5, 1) and budget == 6000
            rank = 2 if slow else 1
            measure = {"answers": [["A", "maker", "cloze", rank, True]], "tokens": budget}
            folder = tmp_path / "runs" / cell.name
            folder.mkdir(parents=True, exist_ok=True)
            before = read_result(tmp_path, cell) or {"measures": {}}
            before["measures"][str(budget)] = measure
            (folder / "result.json").write_text(json.dumps(before))

    monkeypatch.setattr(compare_lib, "_run_all", run_all)
    monkeypatch.setattr(compare_lib, "_workers", lambda _: _Inline())
    monkeypatch.setattr(compare_lib, "make_tokenizer", lambda *_: None)
    comparisons = compare(config)
    assert {c.wordings: c.budget for c in comparisons} == {1: 6000, 5: 9000}
    extended = {name for name, budget in asked_for if budget == 9000}
    assert extended == {cell.name for cell in cells_of(config) if cell.wordings == 5}
    assert not [name for name, budget in asked_for if budget == 12000]


def test_every_variant_runs_with_all_seeds_at_the_main_wordings_only():
    cells = cells_of(TestbedConfig())
    assert len(cells) == 5 * 3 + 5 * 2 == len(set(cells))
    main = [cell for cell in cells if cell.wordings == "unlimited"]
    assert {cell.seed for cell in main} == {0, 1, 2}
    assert {cell.seed for cell in cells if cell.wordings != "unlimited"} == {0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"main_wordings": 7}, "main_wordings: 7 is none of"),
        ({"variants": ["raw", "synthesizer"]}, "needs the MODEL"),
        ({"seeds": [1, 1]}, "seeds: .* each once"),
        ({"shares": {"made": 0.95}}, "left for raw articles"),
        ({"run": {"extend": [2.0, 1.5]}}, "must rise from above 1"),
    ],
)
def test_what_cannot_be_is_said(changes, message):
    with pytest.raises(ValidationError, match=message):
        TestbedConfig.model_validate(changes)


def test_both_recipes_load():
    from configs.load import load_recipe

    folder = "evaluation/testbed"
    assert load_recipe(TestbedConfig, f"{folder}/small.yaml") == TestbedConfig()
    large = load_recipe(TestbedConfig, f"{folder}/large.yaml", ["synthesizer=model"])
    assert make_world(large).domain.held_out


@pytest.mark.slow
def test_the_whole_command_at_a_very_small_size(tmp_path):
    """In processes of its own; given again, it only reports."""
    import yaml

    from evaluation.testbed.__main__ import main

    recipe = tmp_path / "recipe.yaml"
    out = tmp_path / "out"
    said = {**TINY, "out_dir": str(out), "workers": 2, "wordings": [1, "unlimited"]}
    said |= {"variants": ["raw_general_qa", "mixed"], "seeds": [0, 1]}
    said["optimizer"] = {"peak_lr": 1e-2, "warmup_steps": 2, "schedule": "cosine"}
    said["run"] = {**TINY["run"], "extend": [2.0], "memorised": 1.0}  # nothing memorises all
    recipe.write_text(yaml.safe_dump(said))
    assert main([str(recipe)]) == 0
    figures = json.loads((out / "figures.json").read_text())
    assert len(figures["lines"]) == 4
    for line in figures["lines"]:
        assert line["figures"]["memorised"]["facts"] == 36 * len(line["seeds"])
        assert 0 <= line["figures"]["answerable"]["value"] <= 1
        assert line["budget"] == 12000
        assert line["under"]
    results = sorted((out / "runs").glob("*/result.json"))
    for path in results:  # a rate that falls is laid over the larger budget, and begins anew
        assert set(json.loads(path.read_text())["measures"]) == {"6000", "12000"}
        for budget in ("6000", "12000"):
            assert any(place.is_dir() for place in (path.parent / budget / "checkpoints").iterdir())
    before = [path.stat().st_mtime_ns for path in results]
    assert len(results) == 6
    assert main([str(recipe)]) == 0
    assert [path.stat().st_mtime_ns for path in results] == before
    assert (out / "figures.png").exists()
    assert "| mixed" in (out / "table.md").read_text()
