"""The testbed: its generator, what each variant may see, its scoring and its figures."""

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from evaluation.options import Scored
from evaluation.testbed import compare as compare_lib
from evaluation.testbed.articles import write_article, write_articles
from evaluation.testbed.compare import (
    Cell,
    cells_of,
    compare,
    measure_at,
    read_result,
    train_tokenizer,
)
from evaluation.testbed.config import TestbedConfig
from evaluation.testbed.domain import NAME, load_wording, make_domain
from evaluation.testbed.figures import bootstrap, figures_of, lines_of
from evaluation.testbed.measure import Answer, answers, asked, summary
from evaluation.testbed.questions import Item, make_items, question_documents
from evaluation.testbed.report import picture, table
from evaluation.testbed.streams import (
    MADE,
    NAMES,
    comprehension,
    documents,
    make_stream,
    make_world,
    shares,
)

TINY = {
    "domain": {"entities": 15},
    "general": {"entities": 4},
    "vocab_size": 1200,
    "model": {
        "embed_dim": 16,
        "mlp_dim": 24,
        "num_layers": 1,
        "num_heads": 2,
        "num_kv_heads": 2,
        "head_dim": 8,
    },
    "optimizer": {"peak_lr": 1e-2, "warmup_steps": 2, "schedule": "constant"},
    "run": {"tokens": 6000, "extend": [], "batch_rows": 8, "seq_len": 256},
    "workers": 1,
}


def tiny(**changes):
    return TestbedConfig.model_validate({**TINY, **changes})


@pytest.fixture(scope="module")
def config():
    return tiny()


@pytest.fixture(scope="module")
def world(config):
    return make_world(config)


@pytest.fixture(scope="module")
def tokenizer(config, world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    return train_tokenizer(config, world, folder)


def texts_of(found):
    return ["\n".join(turn.text for turn in document.turns) for document in found]


def first_documents(config, world, name, wordings, tokenizer, count=400):
    convert = comprehension(tokenizer, config.run.seq_len) if name == "comprehension" else None
    return list(itertools.islice(documents(config, world, name, wordings, convert), count))


# --- the generator --------------------------------------------------------------------------------


def test_a_domain_and_its_articles_are_a_function_of_the_seed():
    wording = load_wording("pharmacopoeia")
    made = [make_domain(wording, num_entities=30, held_out=0.4, seed=s) for s in (3, 3, 4)]
    random.seed(1)
    articles = [[a.text for a in write_articles(d, d.entities, range(3), 3)] for d in made]
    assert made[0] == made[1]
    assert articles[0] == articles[1]
    assert made[0] != made[2]
    assert articles[0] != articles[2]


def test_the_split_is_60_to_40_and_no_value_is_common_in_either_part():
    domain = make_domain(load_wording("pharmacopoeia"), num_entities=120, held_out=0.4, seed=0)
    assert (len(domain.taught), len(domain.held_out)) == (72, 48)
    assert len({entity.name for entity in domain.entities}) == 120
    for attribute, told in domain.wording.attributes.items():
        for part in (domain.taught, domain.held_out):
            found = [entity.facts[attribute] for entity in part]
            counts = [found.count(value) for value in told.values]
            assert max(counts) - min(counts) <= 1


def test_an_article_tells_every_fact_of_its_kind_and_the_cloze_comes_before_it():
    wording = load_wording("pharmacopoeia")
    domain = make_domain(wording, num_entities=20, held_out=0.4, seed=0)
    for article in write_articles(domain, domain.entities, range(10), 0):
        assert article.text.startswith(article.title + "\n")
        assert set(article.cloze) == set(wording.articles[article.kind])
        for attribute, place in article.cloze.items():
            value = article.entity.facts[attribute]
            assert article.text[place:].startswith(value)
            assert value not in article.text[:place]
            assert article.entity.name in article.text[:place]


def test_wordings_of_an_article_differ_and_the_miner_lives_on_them():
    from data.comprehension.language import load_language
    from data.comprehension.mine import mine

    wording = load_wording("pharmacopoeia")
    domain = make_domain(wording, num_entities=20, held_out=0.4, seed=0)
    entity = domain.entities[0]
    texts = [write_article(wording, entity, "use", n, 0).text for n in range(200)]
    assert len(set(texts)) > 190
    language = load_language("en")
    mined = [task for text in texts[:60] for task in mine(text, language, None)]
    assert {"nli", "cause", "paraphrase"} <= {task.family for task in mined}
    assert len(mined) >= 60


def test_every_question_wording_is_one_of_its_own():
    for name in ("pharmacopoeia", "towns"):
        wording = load_wording(name)
        questions = [q for a in wording.attributes.values() for q in (*a.asked, *a.unseen)]
        assert len(set(questions)) == len(questions)


def test_general_questions_use_the_same_question_words():
    def opening(name, unseen):
        attributes = load_wording(name).attributes.values()
        asked_ = [q for a in attributes for q in (a.unseen if unseen else a.asked)]
        words = {q.split()[0].lower() for q in asked_}
        return words & {"what", "which", "who", "when", "how", "since", "name", "by"}

    assert opening("pharmacopoeia", True) <= opening("towns", False)
    assert opening("pharmacopoeia", False) <= opening("towns", False)


# --- what a variant sees --------------------------------------------------------------------------


@pytest.mark.parametrize("wordings", [1, "unlimited"])
def test_nothing_but_raw_articles_names_a_held_out_entity(config, world, tokenizer, wordings):
    names = [entity.name for entity in world.domain.held_out]
    for name in NAMES:
        if name == "synthesis":
            convert = None  # the synthesizer is handed the taught articles alone
            found = itertools.islice(documents(config, world, name, wordings, convert), 400)
            found = list(found)
        else:
            found = first_documents(config, world, name, wordings, tokenizer)
        naming = [d for d in found if any(n in "\n".join(texts_of([d])) for n in names)]
        if name != "articles":
            assert found
            assert not naming, f"{name} tells of {names}: {texts_of(naming[:1])}"
        else:
            plain = {
                article.text
                for article in write_articles(
                    world.domain, world.domain.held_out, range(40), config.domain.seed
                )
            }
            assert naming
            assert set(texts_of(naming)) <= plain
            assert all("tasks" not in document.meta for document in naming)


def test_taught_entities_are_asked_about_in_every_seen_wording(world):
    domain = world.domain
    found = list(question_documents(domain, domain.taught))
    assert len(found) == len(domain.taught) * sum(
        len(a.asked) for a in domain.wording.attributes.values()
    )
    for document in found[:50]:
        question, answer = document.turns
        entity = next(e for e in domain.taught if e.name in question.text)
        assert answer.text in entity.facts.values()


def test_comprehension_reads_and_asks(config, world, tokenizer):
    found = first_documents(config, world, "comprehension", 5, tokenizer)
    assert len(found) == len(world.domain.taught) * 3 * 5
    families = {task["family"] for d in found for task in d.meta.get("tasks", ())}
    assert {"nli", "cause", "title"} <= families
    length = [len(tokenizer.encode(text)) for text in texts_of(found)]
    assert max(length) <= config.run.seq_len


def test_unseen_questions_are_never_trained_on_but_made_of_words_that_are(config, world, tokenizer):
    seen = "\n".join(
        text
        for name in ("articles", "general_text", "general_questions", "questions")
        for text in texts_of(first_documents(config, world, name, "unlimited", tokenizer, 3000))
    )
    words = set(seen.replace("?", " ").replace(".", " ").replace(",", " ").split())
    for attribute in world.domain.wording.attributes.values():
        for pattern in attribute.unseen:
            before, after = pattern.split(NAME)
            for entity in world.domain.entities:
                assert pattern.replace(NAME, entity.name) not in seen
            assert set(f"{before} {after}".replace("?", "").split()) <= words


@pytest.mark.parametrize("wordings", [1, 5])
def test_all_variants_read_the_same_articles_in_so_many_wordings(
    config, world, tokenizer, wordings
):
    articles = first_documents(config, world, "articles", wordings, tokenizer, 10_000)
    assert len(articles) == len(world.domain.entities) * 3 * wordings
    taught = [
        article.text
        for article in write_articles(world.domain, world.domain.taught, range(wordings), 0)
    ]
    read = [
        d.meta.get("title", "") and d
        for d in first_documents(config, world, "comprehension", wordings, tokenizer, 10_000)
    ]
    assert len(read) == len(taught)  # comprehension is made of those wordings and no others


def test_shares_add_up_and_raw_alone_has_no_questions(config):
    for variant in MADE:
        parts = shares(config, variant)
        assert sum(parts.values()) == pytest.approx(1)
        assert ("general_questions" in parts) == (variant != "raw")
        made = {name: parts[name] for name in MADE[variant]}
        assert sum(made.values()) == pytest.approx(config.shares.made if made else 0)
        assert set(parts) == {"articles", "general_text", *made} | (
            {"general_questions"} if variant != "raw" else set()
        )


def test_streams_of_unlimited_wordings_last_for_the_longest_run(world, tokenizer):
    config = tiny(run={**TINY["run"], "tokens": 20_000, "extend": [2.0]})
    packed = make_stream(config, world, tokenizer, "articles", "unlimited")
    share = max(shares(config, variant)["articles"] for variant in config.variants)
    assert packed.stream.info["tokens"] >= 40_000 * share


# --- runs -----------------------------------------------------------------------------------------


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


# --- scoring --------------------------------------------------------------------------------------


def test_a_planted_model_is_scored_as_it_answers(world, tokenizer):
    """A bigram model that always says the same value after a question mark."""
    import jax.numpy as jnp

    from evaluation.options import Scorer
    from model.config import LlamaConfig
    from model.llama import abstract_params, param_names
    from tpu.config import MeshConfig
    from tpu.mesh import make_mesh, param_specs

    size = tokenizer.vocab_size + tokenizer.vocab_size % 2
    shape = LlamaConfig(
        vocab_size=size,
        embed_dim=size,
        mlp_dim=2,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=2,
    )
    items = [
        item
        for item in make_items(world.domain, world.domain.held_out, 0)
        if item.attribute == "maker" and item.kind == "seen" and item.prompt.endswith("?")
    ]
    asked_ = asked(items, tokenizer)
    said = items[0].right
    chain = (asked_[0].context[-1], *asked_[0].continuations[said])
    import jax

    params = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), abstract_params(shape))
    params["embed"]["table"] = jnp.eye(size)
    params["final_norm"]["scale"] = jnp.ones(size)
    kernel = np.zeros((size, size), np.float32)
    for before, after in itertools.pairwise(chain):
        kernel[before, after] += 1.0
    params["head"]["kernel"] = jnp.asarray(kernel)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    scorer = Scorer(shape, mesh, param_specs(param_names(shape), abstract_params(shape), mesh))
    found = answers(items, scorer.score(params, asked_))
    for item, answer in zip(items, found, strict=True):
        assert answer.greedy == (item.right == said)
        assert (answer.rank == 1) == (item.right == said)


def item(entity, attribute, kind, right=0):
    return Item(entity, attribute, kind, "?", ("a", "b", "c"), right)


def test_ranks_count_ties_against_the_right_value():
    scored = [
        Scored((-1.0, -2.0, -3.0), (1, 1, 1), (True, False, False), 0),
        Scored((-2.0, -2.0, -3.0), (1, 1, 1), (False, False, False), 0),
    ]
    found = answers([item("A", "maker", "cloze"), item("B", "maker", "cloze")], scored)
    assert [answer.rank for answer in found] == [1, 2]
    assert [answer.greedy for answer in found] == [True, False]


def test_answerable_given_memorised_leaves_out_what_is_not_memorised():
    found = [
        Answer("A", "maker", "cloze", 1, False),
        Answer("A", "maker", "seen", 1, True),
        Answer("B", "maker", "cloze", 2, True),
        Answer("B", "maker", "seen", 3, False),
        Answer("C", "maker", "cloze", 1, True),
        Answer("C", "maker", "seen", 1, False),
    ]
    figures = summary(found)
    assert figures["memorised"] == pytest.approx(2 / 3)
    assert figures["seen"]["greedy"] == pytest.approx(1 / 3)
    assert figures["seen"]["greedy_given_memorised"] == pytest.approx(1 / 2)
    assert figures["seen"]["mean_rank"] == pytest.approx(5 / 3)
    assert figures["unseen"]["greedy"] is None
    again = figures_of([found, found], draws=200)
    assert again["answerable_given_memorised"].value == pytest.approx(1 / 2)
    assert again["answerable_given_memorised"].facts == 4
    assert again["answerable_unseen"].value is None


def test_the_bootstrap_draws_entities():
    assert bootstrap(np.full(20, 3), np.full(20, 6), draws=100) == (0.5, 0.5)
    right, count = np.array([6] * 24 + [0] * 24), np.full(48, 6)
    low, high = bootstrap(right, count, draws=4000)
    # The standard error of 48 entities of which half are right, not that of 288 facts.
    assert (high - low) / 2 == pytest.approx(1.96 * (0.25 / 48) ** 0.5, rel=0.1)


def test_prompts_are_what_training_has(world, tokenizer):
    items = make_items(world.domain, world.domain.held_out, 0)
    assert {i.kind for i in items} == {"cloze", "seen", "unseen"}
    for found, one in list(zip(items, asked(items, tokenizer), strict=True))[::7]:
        for value, continuation in zip(found.values, one.continuations, strict=True):
            whole = tokenizer.decode([*one.context, *continuation])
            assert whole.strip() == f"{found.prompt} {value}"


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


def test_too_many_entities_or_an_empty_part_are_refused():
    wording = load_wording("towns")
    with pytest.raises(ValueError, match="more than the 96 names"):
        make_domain(wording, num_entities=97, held_out=0.4, seed=0)
    with pytest.raises(ValueError, match="both parts need at least one"):
        make_domain(wording, num_entities=2, held_out=0.1, seed=0)
    with pytest.raises(ValueError, match="does not exist"):
        load_wording("/nowhere/words.yaml")


def test_a_synthesizer_writes_about_taught_articles_once(world, tokenizer, tmp_path, monkeypatch):
    import model.generate
    from data.generator import Completion
    from evaluation.testbed.synthesizer import open_synthesizer

    class Engine:
        def __init__(self):
            self.tokenizer, self.prompts = tokenizer, []

        def generate(self, prompts):
            for prompt in prompts:
                self.prompts.append(prompt)
                said = " <QUE> Which firm makes the drug? <ANS> The firm that makes it. </END>"
                yield Completion(prompt.id, said, "stop", 0, 10)

    engine = Engine()
    monkeypatch.setattr(model.generate, "open_engine", lambda *_: engine)
    config = tiny(
        out_dir=str(tmp_path),
        variants=["synthesizer"],
        synthesizer="model",
        synthesis={"filters": {"min_answer_overlap": 0.0, "min_question_overlap": 0.0}},
    )
    convert = open_synthesizer(config, tokenizer)
    first = list(documents(config, world, "synthesis", 1, convert))
    asked_for = len(engine.prompts)
    text = "\n".join(texts_of(first))
    assert "Which firm makes the drug?" in text
    assert asked_for == len(world.domain.taught) * 3
    assert all(entity.name in text for entity in world.domain.taught)
    assert not any(entity.name in text for entity in world.domain.held_out)
    again = list(documents(config, world, "synthesis", 1, open_synthesizer(config, tokenizer)))
    assert texts_of(again) == texts_of(first)
    assert len(engine.prompts) == asked_for


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
