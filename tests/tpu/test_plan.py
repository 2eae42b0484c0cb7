"""The planner: one real compilation of a small model for a TPU that is not there, and what is said of it."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from configs.load import load_recipe
from configs.recipe import TrainRecipe
from model.config import ModelConfig, resolve
from tpu import compile as compiling
from tpu.compile import DoesNotFit, digest_of, flags_of
from tpu.plan import compare, describe, main, plan
from tpu.programs import model_of
from tpu.search import nearest, report, search
from tpu.settings import choices, first_that_fits, settle
from tpu.topology import described, generation_of, generations
from training.config import TrainConfig

needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is for Linux on x86-64"
)
LAYERS, V, D, F, N, H = 2, 512, 128, 256, 2, 64
RECIPE = f"""
run_dir: runs/none
tokenizer: nowhere
model: {{vocab_size: {V}, embed_dim: {D}, mlp_dim: {F}, num_layers: {LAYERS}, num_heads: {N}, num_kv_heads: {N}, head_dim: {H}}}
streams: {{one: {{path: nowhere}}}}
train: {{num_steps: 3600, seq_len: 256, global_batch_rows: 8}}
mesh: {{chip_hour_price: 1.5}}
"""


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(RECIPE)
    return str(path)


@pytest.fixture
def own_table(tmp_path, monkeypatch):
    """Settings that do not change when the project's table does."""
    file = tmp_path / "settings.yaml"
    file.write_text(
        "TPU v5 lite: {remat: [residual, attention], loss_chunk: 64, attention_blocks: [512, 512]}\n"
        "elsewhere: {remat: [attention], loss_chunk: 32, attention_blocks: [128, 128]}\n"
    )
    monkeypatch.setattr("tpu.settings.FILE", file)


@pytest.fixture(scope="module")
def compiled(recipe_file, tmp_path_factory):
    """(the plan, what the compiler said of memory, the cache's folder)."""
    said = []
    original = jax.stages.Compiled.memory_analysis

    def listen(self):
        said.append(original(self))
        return said[-1]

    cache = tmp_path_factory.mktemp("plans")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TPU_SKIP_MDS_QUERY", "1")
        patch.setattr(jax.stages.Compiled, "memory_analysis", listen)
        found = plan(load_recipe(TrainRecipe, recipe_file), "v5e:2x2", cache=cache)
    return found, said, cache


@needs_compiler
def test_the_figures_are_the_compilers(compiled):
    found, said, _ = compiled
    step = found["steps"]["train"]
    (memory,) = said
    assert step["peak_bytes"] == memory.peak_memory_in_bytes
    params = 2 * V * D + LAYERS * (4 * D * N * H + 3 * D * F)
    norms = (2 * LAYERS + 1) * D
    # Weights and two moments in float32, a fourth on each device; norms and two counters whole.
    assert step["state_bytes"] == 12 * (params // 4 + norms) + 8
    # Three products forward and backward of every weight but the table's, on 2 rows of 256 a device.
    products = 6 * 512 * (params - V * D)
    # Rotary positions fetch each pair's partner by a product, forward and backward.
    products += 2 * 2 * LAYERS * 2 * 512 * N * H * H
    assert step["matmul_flops"] - step["remat_flops"] == pytest.approx(products, rel=0.02)
    assert 0 < step["remat_flops"] < products / 3
    assert step["kernel_calls"] == 2 * LAYERS
    assert step["estimated_cycles"] > 0
    # Every weight gathered (twice in the layers) and its gradient scattered, three quarters of it sent.
    layers = LAYERS * (4 * D * N * H + 3 * D * F)
    least = 3 / 4 * (2 * 2 * layers + 4 * params)
    assert step["ring_bytes"] > least
    assert {"all-gather", "reduce-scatter"} <= step["collectives"].keys()
    for key in ("estimated_cycles", "peak_bytes", "ring_bytes", "kernel_calls", "step_seconds"):
        assert found[key] == step[key]


@needs_compiler
def test_a_step_with_adapters_has_no_gradients_of_frozen_weights(recipe_file, tmp_path):
    recipe = load_recipe(TrainRecipe, recipe_file, ["model.lora={rank: 8}", "train.remat=none"])
    found = plan(recipe, "v5e:2x2", cache=tmp_path)
    step = found["steps"]["train"]
    layer = 4 * D * N * H + 3 * D * F
    weights, norms = 2 * V * D + LAYERS * layer, (2 * LAYERS + 1) * D
    both = 3 * (D + N * H) + N * H + D + 3 * (D + F)
    adapters = 8 * LAYERS * both
    assert found["adapter_parameters"] == adapters
    # Frozen in bfloat16, a fourth on each device; of the adapters, in float32 with two moments, the halves
    # with an embed dim are split.
    split = 8 * LAYERS * (3 * D + D + 2 * D + D)
    expected = 2 * weights // 4 + 4 * norms + 12 * (split // 4 + adapters - split) + 8
    assert step["state_bytes"] == expected
    # Forwards and to the input of every weight; three products of the adapters.
    products = (
        4 * 512 * (weights - V * D) + 6 * 512 * adapters + 2 * 2 * LAYERS * 2 * 512 * N * H * H
    )
    assert step["matmul_flops"] == pytest.approx(products, rel=0.02)
    assert step["remat_flops"] == 0
    assert f"{adapters:,} in adapters, which alone are trained" in describe(found)


@needs_compiler
def test_the_run_is_its_steps_and_its_price(compiled):
    found, _, _ = compiled
    hours = found["step_seconds"] * 3600 / 3600
    assert found["run"]["chip_hours"] == pytest.approx(4 * hours)
    assert found["run"]["cost"] == pytest.approx(4 * hours * 1.5)
    text = describe(found)
    assert "fsdp 4" in text
    assert "1.5 a chip and hour" in text


@needs_compiler
def test_what_was_compiled_is_not_compiled_again(compiled, recipe_file, monkeypatch):
    found, _, cache = compiled

    def refuse(*_, **__):
        raise AssertionError("compiled again")

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    again = plan(load_recipe(TrainRecipe, recipe_file), "v5e:2x2", cache=cache)
    assert again == found


@needs_compiler
def test_a_program_that_does_not_fit_says_by_how_much(
    compiled, own_table, recipe_file, monkeypatch, tmp_path
):
    said = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
        "Used 18.25G of 15.75G hbm. Exceeded hbm capacity by 2.50G."
    )
    tries = []

    def refuse(*_, **__):
        tries.append(1)
        raise jax.errors.JaxRuntimeError(said)

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    recipe = load_recipe(TrainRecipe, recipe_file)
    with pytest.raises(ValueError, match=r"18.25 GiB of 15.75 a device, 2.50 too many; ") as error:
        plan(recipe, "v5e:2x2", cache=tmp_path)
    assert len(tries) == 2, "every setting of the table is tried"
    assert "no setting near these should" in str(error.value), "a small model is not what is large"
    with pytest.raises(ValueError, match="18.25"):
        plan(recipe, "v5e:2x2", cache=tmp_path)
    assert len(tries) == 2, "and what did not fit is known too"


@needs_compiler
def test_a_refused_flag_is_named(recipe_file, monkeypatch, tmp_path, compiled):
    def refuse(*_, **__):
        raise jax.errors.JaxRuntimeError(
            "INVALID_ARGUMENT: No such compile option: 'xla_tpu_wings'"
        )

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    recipe = load_recipe(TrainRecipe, recipe_file, ["train.compiler_flags={xla_tpu_wings: true}"])
    with pytest.raises(ValueError, match=r"xla_tpu_wings is refused.*train.compiler_flags"):
        plan(recipe, "v5e:2x2", cache=tmp_path)


@needs_compiler
def test_a_search_keeps_the_fastest_and_says_why(recipe_file, monkeypatch, capsys, compiled):
    def pretend(program, generation, flags, *, cache):
        settings = program if isinstance(program, dict) else program.settings
        if settings["remat"] == "none":
            raise DoesNotFit(20 * 2**30, generation.capacity, "")
        speed = {"attention": 1.0, "kv": 1.3, "qkv": 1.2, "residual": 1.5, "mlp": 1.1}
        speed = speed[settings["remat"]]
        speed *= 1.1 if settings["accumulate"] == 1 else 1.0
        seconds = settings["global_batch_rows"] / speed
        return {
            "tokens_per_second_per_chip": 1000 * speed,
            "peak_bytes": 2**30
            * {"attention": 1, "kv": 1, "qkv": 3, "residual": 2, "mlp": 4}[settings["remat"]],
            "step_seconds": seconds,
            "seconds": {"cycles": seconds, "attention": 0.0},
        }

    def program(recipe, train, mesh):
        settings = {k: getattr(train, k) for k in ("remat", "accumulate", "global_batch_rows")}
        return SimpleNamespace(settings=settings)

    monkeypatch.setattr(compiling, "figures", pretend)
    monkeypatch.setattr("tpu.programs.train_step", program)
    recipe = load_recipe(TrainRecipe, recipe_file)
    found = search(recipe, "v5e:2x2", cache=None, rows=[4], budget=30)
    assert "train.remat=residual" in found["overrides"]
    assert "train.accumulate" not in found["overrides"], "nothing is said that makes nothing faster"
    assert found["steps"]["train"]["tokens_per_second_per_chip"] == pytest.approx(1650)
    text = capsys.readouterr().out
    assert "20.00 GiB of 15.75" in text
    frontier = report(found).split("best:")[0]
    assert "residual" in frontier
    assert "qkv" not in frontier, "slower in more memory"
    words = [word.strip("'") for word in found["overrides"].split()]
    assert load_recipe(TrainRecipe, recipe_file, words).train.remat == "residual"


def test_topologies_that_nobody_knows_are_refused_with_those_that_work():
    with pytest.raises(ValueError, match=r"v9z.*v5e: .*16x16"):
        generation_of("v9z:4x4")
    if importlib.util.find_spec("libtpu"):
        with pytest.raises(ValueError, match=r"v5e:3x3.*not divisible.*v5e: 1x1 2x2"):
            described("v5e:3x3")


def test_without_libtpu_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"libtpu.*pip install .*plan"):
        described("v5e:2x2")


@needs_compiler
@pytest.mark.parametrize("generation", generations().values(), ids=lambda g: g.name)
def test_every_layout_of_the_table_is_known_to_the_compiler(generation):
    for layout in generation.layouts:
        devices = described(f"{generation.name}:{layout}")
        chips = 1
        for size in layout.split("x"):
            chips *= int(size)
        assert len(devices) == chips * generation.devices_per_chip


@needs_compiler
def test_slices_are_told_apart():
    assert {d.slice_index for d in described("v5e:2x2", slices=2)} == {0, 1}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["RECIPE"], "--topology: missing; v4: "),
        (["RECIPE", "--topology", "v1:1x1"], "no generation 'v1'"),
        (["RECIPE", "--topology=v5e:2x2", "--steps", "jump"], "--steps: no step jump"),
        (["RECIPE", "--topology=v5e:2x2", "--search", "--rows", "two"], "--rows: 'two'"),
        (["RECIPE", "--topology=v5e:2x2", "mesh.tensor=4"], "mesh.tensor: 4 does not divide"),
        (
            ["RECIPE", "--topology=v5e:2x2", "train.global_batch_rows=6"],
            "6 rows do not divide over 4",
        ),
        (["RECIPE", "--topology=v5e:2x2", "--slices=3"], "does not divide by 3"),
        (["--compare", "a.json"], "--compare: name two files"),
        (["RECIPE", "--topology=v5e:2x2", "model={preset: tiny}"], "model.vocab_size: preset tiny"),
        (["RECIPE", "--topology=v5e:2x2", "model={init_from: org/name}"], "model.preset: name"),
    ],
)
@needs_compiler
def test_errors_name_what_to_change(recipe_file, capsys, words, said, monkeypatch):
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    words = [recipe_file if word == "RECIPE" else word for word in words]
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 1
    assert said in capsys.readouterr().err


@needs_compiler
def test_plans_are_compared(compiled, tmp_path, capsys):
    found, _, _ = compiled
    other = json.loads(json.dumps(found))
    other["steps"]["train"]["estimated_cycles"] *= 2
    other["steps"]["train"]["settings"]["remat"] = "mlp"
    for name, one in (("a", found), ("b", other)):
        (tmp_path / name).write_text(json.dumps(one))
    assert main(["--compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    text = capsys.readouterr().out
    assert "2.000" in text.split("estimated_cycles")[1].splitlines()[0]
    assert "mlp" in text
    (tmp_path / "c").write_text("[]")
    with pytest.raises(SystemExit):
        main(["--compare", str(tmp_path / "a"), str(tmp_path / "c")])
    assert "is not a file of tpu.plan --json" in capsys.readouterr().err
    assert compare(found, found).count("1.000") >= 6


def train(**fields):
    return TrainConfig(**{"num_steps": 1, "global_batch_rows": 512, "seq_len": 4096} | fields)


def test_what_a_recipe_leaves_open_comes_from_the_table(own_table):
    filled = settle(train(), "TPU v5 lite", need=lambda _: 0, capacity=1)
    assert [one.remat for one in filled] == ["residual", "attention"]
    assert {(one.loss_chunk, one.attention_blocks) for one in filled} == {(64, (512, 512))}
    said = train(remat="mlp", loss_chunk=77, attention_blocks=(256, 512))
    assert settle(said, "TPU v5 lite", need=lambda _: 9, capacity=1) == [said]
    (elsewhere,) = settle(train(), "cpu", need=lambda _: 9, capacity=None)
    assert (elsewhere.remat, elsewhere.loss_chunk) == ("attention", 32)


def test_settings_without_a_chance_are_not_compiled(own_table):
    size = {"residual": 3, "attention": 2}
    found = settle(train(), "TPU v5 lite", need=lambda one: size[one.remat], capacity=2)
    assert [one.remat for one in found] == ["attention"]
    found = settle(train(), "TPU v5 lite", need=lambda one: size[one.remat], capacity=1)
    assert [one.remat for one in found] == ["attention"], "the leanest is tried all the same"
    size = {"residual": 1.9, "attention": 1}
    found = settle(train(), "TPU v5 lite", need=lambda one: size[one.remat], capacity=2)
    assert [one.remat for one in found] == ["attention"], "not to the brim"


def test_the_projects_table_fills_every_generation():
    for generation in generations().values():
        for one in settle(train(), generation.kind, need=lambda _: 0, capacity=1):
            assert one.remat != "auto"
            assert one.loss_chunk
            assert one.attention_blocks


def test_the_first_that_fits_is_taken_and_other_errors_are_not_swallowed():
    def build(one):
        if one == "large":
            raise RuntimeError("RESOURCE_EXHAUSTED: hbm")
        return one.upper()

    assert first_that_fits(["large", "small", "smaller"], build) == ("SMALL", "small")
    with pytest.raises(RuntimeError):
        first_that_fits(["large", "large"], build)

    def fail(one):
        raise RuntimeError("INTERNAL: broken")

    with pytest.raises(RuntimeError, match="broken"):
        first_that_fits(["a", "b"], fail)


def test_the_nearest_settings_are_the_smallest_change_that_should_fit(recipe_file):
    recipe = load_recipe(
        TrainRecipe,
        recipe_file,
        ["model={preset: llama3_8b}", "train.global_batch_rows=1024", "train.seq_len=4096"],
    )
    v5e, mesh = generations()["v5e"], SimpleNamespace(size=256)
    rich = train(global_batch_rows=1024, remat="residual", loss_chunk=1024)
    said = nearest(recipe, rich, mesh, v5e, 24 * 2**30)
    assert said.endswith("should: train.remat=attention")
    lean = train(global_batch_rows=1024, remat="attention", loss_chunk=512)
    assert nearest(recipe, lean, mesh, v5e, 18 * 2**30).endswith("should: train.accumulate=2")
    small = SimpleNamespace(size=4)
    tight = train(global_batch_rows=4, remat="attention", loss_chunk=512)
    said = nearest(recipe, tight, small, v5e, 60 * 2**30)
    assert "take a larger slice" in said


@needs_compiler
def test_digests_change_with_the_program_the_flags_and_nothing_else():
    one = digest_of("module", {"a": 1, "b": 2})
    assert one == digest_of("module", {"b": 2, "a": 1})
    assert one != digest_of("module", {"a": 1})
    assert one != digest_of("other", {"a": 1, "b": 2})


def test_a_recipes_flags_go_over_the_tables():
    device = SimpleNamespace(device_kind="TPU v5 lite")
    assert flags_of(device, {}) != {}
    name = next(iter(flags_of(device, {})))
    assert flags_of(device, {name: 5})[name] == 5


def test_a_machine_without_a_row_gets_one_choice(recipe_file):
    from tpu.config import MeshConfig
    from tpu.mesh import make_mesh

    config = resolve(ModelConfig(preset="tiny", vocab_size=64), tokenizer_vocab=None, base=None)
    mesh = make_mesh(MeshConfig(), jax.devices()[:2])
    assert len(choices(train(), config, MeshConfig(), mesh)) == 1


def test_no_weights_and_no_tokenizer_are_read(recipe_file):
    recipe = load_recipe(TrainRecipe, "configs/adaptllm/biomedicine_7b.yaml")
    assert model_of(recipe).num_layers == 32


@needs_compiler
@pytest.mark.slow
def test_the_table_of_what_fits_is_true():
    """Recompiles rows whose program changed, and three drawn at random; `make plans` renews the table."""
    import subprocess
    import sys

    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "tpu.compiled", "--check", "--sample", "3", "--most", "6"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
