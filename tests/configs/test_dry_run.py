"""The figures of a dry run, against numbers worked out by hand."""

import json
import re

import pytest

from configs.dry_run import report
from configs.load import load_recipe
from configs.recipe import TrainRecipe

RECIPE = """\
run_dir: {tmp}/run
model: {{preset: llama2_7b, init_from: null}}
tokenizer: {tmp}/tokenizer
prepare: prepare.yaml
streams:
  reading: {{path: {tmp}/reading, weight: 3}}
  general: {{path: {tmp}/general, weight: 1}}
train: {{num_steps: 10, seq_len: 2048, global_batch_rows: 4}}
"""


@pytest.fixture
def load(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE.format(tmp=tmp_path))
    return lambda *overrides: load_recipe(TrainRecipe, str(file), overrides)


def write_stream(folder, **changes):
    info = {"format": 1, "name": folder.name, "seq_len": 2048, "num_rows": 8, "tokens": 8 * 2048}
    info |= {
        "supervised": 8 * 1024,
        "documents": 5,
        "tokenizer": "t",
        "vocab_size": 32000,
    } | changes
    info["shards"] = [{"file": "rows", "bytes": 3, "rows": info["num_rows"]}]
    folder.mkdir()
    (folder / "rows").write_bytes(b"abc")
    for name in ("dataset_info.json", "features.json"):
        (folder / name).write_text("{}")
    (folder / "stream.json").write_text(json.dumps(info))


def test_model_figures(load):
    text = report(load("mesh.fsdp=4"))
    assert "parameters 6,738,415,616\n" in text
    # tpu.md's check of the formula: LLaMA-2-7B, 4 x 2048: 337.95 TFLOP a step
    step, run = re.findall(r"FLOPs +([\d.e+]+) a step, ([\d.e+]+) the run", text)[0]
    assert float(step) == pytest.approx(337.95e12, rel=1e-3)
    assert float(run) == pytest.approx(3379.5e12, rel=1e-3)
    assert f"{6738415616 * 12 / 4 / 2**30:.4g} GiB per device" in text
    assert "over 4 devices" in text


def test_norms_are_not_split_and_copies_are_not_shared_out(load):
    text = report(load("mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2"))
    norms = (2 * 32 + 1) * 4096
    # a dim that is not split over fsdp and tensor both is a norm's; mesh.data only makes copies
    assert f"{((6738415616 - norms) / 4 + norms) * 12 / 2**30:.4g} GiB per device" in text
    assert "over 8 devices" in text


def test_vocabulary_padding_is_memory_and_no_parameter(load):
    text = report(load("model.vocab_multiple=1024", "mesh.fsdp=1"))
    assert f"parameters 6,738,415,616 (and {2 * 768 * 4096:,} of vocabulary padding)" in text
    assert f"{(6738415616 + 2 * 768 * 4096) * 12 / 2**30:.4g} GiB per device" in text


def test_streams_that_are_not_there_are_named(load):
    text = report(load("mesh.fsdp=1"))
    assert "not prepared yet: reading, general (python -m data.prepare prepare.yaml)" in text
    assert "10 of 4 rows x 2,048 tokens" in text


def test_stream_figures(load, tmp_path):
    write_stream(tmp_path / "reading")
    write_stream(tmp_path / "general", tokens=8 * 1024, supervised=8 * 256)
    text = report(load("mesh.fsdp=1"))
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    # Tokens 3:1, and a row of `general` holds half as many, so rows 3:2 of 40.
    assert lines["reading"] == ["reading", "75.0%", "24", "49,152", "24,576", "0", "3.00"]
    assert lines["general"] == ["general", "25.0%", "16", "16,384", "4,096", "16,384", "2.00"]
    assert lines["all"] == ["all", "100.0%", "40", "65,536", "28,672", "16,384"]


def test_the_recipe_is_printed_resolved(load, tmp_path):
    text = report(load("optimizer.peak_lr=2e-5", "mesh.fsdp=1"))
    printed = tmp_path / "printed.yaml"
    printed.write_text(text.split("\n\n")[0])
    assert load_recipe(TrainRecipe, str(printed)) == load("optimizer.peak_lr=2e-5", "mesh.fsdp=1")


def test_what_a_run_would_refuse_is_refused(load, tmp_path):
    with pytest.raises(ValueError, match="mesh.fsdp: 3 does not divide embed=4096 of parameter"):
        report(load("mesh.fsdp=3", "train.global_batch_rows=6"))
    write_stream(tmp_path / "reading", seq_len=128)
    write_stream(tmp_path / "general")
    with pytest.raises(ValueError, match="reading.* train.seq_len"):
        report(load("mesh.fsdp=1"))


def test_a_vocabulary_that_is_still_to_be_trained(load):
    text = report(load("model.preset=tiny"))
    assert "its vocabulary is that of the tokenizer, which is not there yet" in text
