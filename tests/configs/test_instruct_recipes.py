"""The recipes of Instruction Pre-Training: published numbers, a dry run each, slices that divide their batches."""

from pathlib import Path

import pytest

from configs.dry_run import report
from configs.load import load_recipe
from configs.parse import parse_yaml
from configs.recipe import PrepareRecipe, TrainRecipe
from data.synthesis.pages import PagesConfig
from data.synthesis.proof import ProofConfig
from tpu.mesh import axis_sizes

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "instruct"
TRAINED = sorted(
    path.stem
    for path in CONFIGS.glob("*.yaml")
    if "streams" in parse_yaml(path.read_text(), str(path)).value
)
DEVICES = {
    "synthesizer_7b": 16,
    "general_500m": 16,
    "general_1_3b": 64,
    "biomedicine_8b": 64,
    "finance_8b": 64,
    "tune_after": 16,
}
PUBLISHED = {  # tokens a row, tokens a step, peak rate, warm-up
    "synthesizer_7b": (4096, 16_384, 5e-6, 1000),
    "general_500m": (2048, 524_288, 3e-4, 2000),
    "general_1_3b": (2048, 1_048_576, 2e-4, 2000),
    "biomedicine_8b": (4096, 262_144, 1e-5, 1000),
    "finance_8b": (4096, 262_144, 1e-5, 1000),
}


@pytest.fixture(autouse=True)
def at_the_root(root, monkeypatch):
    monkeypatch.chdir(root)
    monkeypatch.setenv("LECTERN_REALDATA", "/realdata")


def training(name: str, *overrides: str) -> TrainRecipe:
    return load_recipe(TrainRecipe, f"configs/instruct/{name}.yaml", overrides)


def preparation(name: str) -> PrepareRecipe:
    recipe = training(name)
    assert recipe.prepare is not None
    return load_recipe(PrepareRecipe, recipe.prepare)


def test_there_is_a_recipe_for_each_published_run():
    assert set(PUBLISHED) <= set(TRAINED)
    assert "tune_after" in TRAINED


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_numbers_are_kept(name):
    recipe = training(name)
    seq_len, tokens, rate, warmup = PUBLISHED[name]
    assert recipe.train.seq_len == seq_len
    assert recipe.train.seq_len * recipe.train.global_batch_rows == tokens
    assert recipe.optimizer.peak_lr == rate
    assert recipe.optimizer.warmup_steps == warmup
    assert recipe.optimizer.schedule == "cosine"
    assert (recipe.optimizer.beta1, recipe.optimizer.beta2) == (0.9, 0.95)
    assert recipe.optimizer.weight_decay == 0.1


def test_the_runs_are_as_long_as_published():
    def tokens(name: str) -> float:
        run = training(name).train
        return run.num_steps * run.global_batch_rows * run.seq_len / 1e9

    assert tokens("general_500m") == pytest.approx(100, rel=0.06)
    assert tokens("general_1_3b") == pytest.approx(100, rel=0.06)
    assert tokens("biomedicine_8b") == tokens("finance_8b") == pytest.approx(1, rel=0.06)
    assert tokens("synthesizer_7b") == pytest.approx(5 * 0.2, rel=0.01)


def test_one_text_in_five_is_augmented_from_scratch_and_all_of_a_domain_in_lanes_of_three():
    web = preparation("general_500m").corpora["web"]
    assert (web.convert, web.synthesis.augment, web.synthesis.rounds) == ("synthesis", 0.2, 2)
    for name, corpus in (("biomedicine_8b", "abstracts"), ("finance_8b", "news")):
        texts = preparation(name).corpora[corpus]
        assert (texts.convert, texts.synthesis.augment, texts.synthesis.rounds) == (
            "synthesis",
            1.0,
            3,
        )
        weights = {stream.weight for stream in training(name).streams.values()}
        assert weights == {1.0}  # 1:1, and weights count tokens


def test_the_tuning_collection_goes_in_four_times_over_a_run_from_scratch():
    for name in ("general_500m", "general_1_3b"):
        recipe = training(name)
        total = recipe.train.num_steps * recipe.train.global_batch_rows * recipe.train.seq_len
        weights = {key: stream.weight for key, stream in recipe.streams.items()}
        share = weights["tuning"] / sum(weights.values())
        assert share * total == pytest.approx(4 * 0.2e9, rel=0.1)


def test_a_synthesizer_is_tuned_on_its_pairs_alone():
    tuning = preparation("synthesizer_7b").corpora["tuning"]
    assert tuning.convert == "tuning"
    assert (tuning.chat.template, tuning.chat.train_on) == ("synthesizer", "assistant")


@pytest.mark.parametrize("name", TRAINED)
def test_a_dry_run_says_what_it_would_take(name, sample_streams):
    # The weights are on the hub; the preset beside them says their shape. The proof's tokenizer is
    # made by a step before.
    overrides = ["model.init_from=null"] if name in DEVICES else []
    if name in ("proof_augmented", "proof_raw"):
        stream = name.removeprefix("proof_")  # there, where the proof was run, and of its tokenizer
        overrides = [
            f"tokenizer={sample_streams / 'tokenizer'}",
            f"streams.{stream}.path={sample_streams / 'not made yet'}",
        ]
    text = report(training(name, *overrides), num_devices=DEVICES.get(name, 1))
    assert "steps  " in text
    if name in DEVICES:
        assert "FLOPs" in text
        assert "per device" in text


@pytest.mark.parametrize("name", DEVICES)
def test_the_batch_divides_by_the_slice_that_is_named(name):
    recipe = training(name)
    sizes = axis_sizes(recipe.mesh, DEVICES[name])
    ways = sizes["slices"] * sizes["data"] * sizes["fsdp"]
    assert recipe.train.global_batch_rows % (ways * recipe.train.accumulate) == 0
    said = (CONFIGS / f"{name}.yaml").read_text()
    assert f", {DEVICES[name]} chips" in said
    assert recipe.model.preset is not None


@pytest.mark.parametrize(
    "name", [name for name in DEVICES if name not in ("synthesizer_7b", "tune_after")]
)
def test_dropout_is_left_out_in_words(name):
    assert "dropout 0.1" in (CONFIGS / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", ["proof", "proof_large"])
def test_the_proof_runs_recipes_that_load_with_their_overrides(name):
    proof = load_recipe(ProofConfig, f"configs/instruct/{name}.yaml")
    kinds = {
        "data.synthesis.pages": PagesConfig,
        "train.py": TrainRecipe,
        "data.prepare": PrepareRecipe,
    }
    made = {}
    for line in proof.commands:
        program, path, *overrides = line.split()
        recipe = load_recipe(kinds[program], path, overrides)
        made[recipe.run_dir if isinstance(recipe, TrainRecipe) else recipe.out_dir] = recipe
    assert {proof.synthesizer, proof.augmented, proof.raw} <= set(made)
    (texts,) = [r for r in made.values() if isinstance(r, PrepareRecipe)]
    assert texts.generator is not None
    assert texts.generator.model == proof.synthesizer
    for run in ("augmented", "raw"):
        streams = made[getattr(proof, run)].streams
        assert [s.path for s in streams.values()] == [f"{texts.out_dir}/{run}"]
        assert texts.corpora[run].path == proof.texts
    # Equal tokens: the two runs differ in their stream alone.
    differ = {"run_dir", "streams"}
    assert made[proof.augmented].model_dump(exclude=differ) == made[proof.raw].model_dump(
        exclude=differ
    )
    tuning = load_recipe(PrepareRecipe, made[proof.synthesizer].prepare)
    assert proof.texts.startswith(f"{tuning.out_dir}/pages/heldout/")
    assert texts.tokenizer == f"{tuning.out_dir}/tokenizer" == made[proof.synthesizer].tokenizer
    assert texts.heldout.fraction < tuning.heldout.fraction
    pages = made["runs/instruct/proof/texts"]
    assert pages.recombined.heldout == tuning.heldout.fraction
