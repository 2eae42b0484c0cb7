"""The recipes of AdaptLLM: the published numbers, and that they run on the shapes they name."""

import gzip
import json
import shutil
from pathlib import Path

import pytest

from configs.dry_run import report
from configs.load import load_recipe
from configs.recipe import PrepareRecipe, TrainRecipe

CONFIGS = "configs/adaptllm"
DOMAINS = {"biomedicine": ("abstracts", 1), "finance": ("news", 2), "law": ("opinions", 1)}
TRAIN = [
    f"{CONFIGS}/{d}_{kind}.yaml" for d in DOMAINS for kind in ("7b", "13b", "chat_7b", "raw_7b")
]
ABLATION = [
    f"{CONFIGS}/ablation/{name}.yaml"
    for name in ("raw", "read", "general", "raw_general", "read_general")
]
DATA = [f"{CONFIGS}/{d}{kind}_data.yaml" for d in DOMAINS for kind in ("", "_13b", "_chat", "_raw")]
GENERAL = {"orca", "wizardlm", "lima"}


@pytest.fixture
def at_the_root(root, monkeypatch):
    monkeypatch.chdir(root)
    monkeypatch.setenv("LECTERN_REALDATA", "/realdata")


def test_every_file_is_one_of_these(root):
    found = {str(path.relative_to(root)) for path in (root / CONFIGS).rglob("*.yaml")}
    assert found == {*TRAIN, *ABLATION, *DATA}


@pytest.mark.parametrize("path", [*TRAIN, *ABLATION])
def test_the_published_numbers(path, at_the_root):
    recipe = load_recipe(TrainRecipe, path)
    big = "13b" in path
    assert recipe.train.seq_len == (512 if big else 2048)
    assert recipe.train.num_steps == (40_000 if big else 10_000)
    assert recipe.train.global_batch_rows == 32
    tokens = recipe.train.num_steps * recipe.train.seq_len * 32
    assert tokens == 655_360_000
    o = recipe.optimizer
    assert (o.peak_lr, o.beta1, o.beta2, o.weight_decay, o.clip_norm) == (1e-5, 0.9, 0.95, 0.1, 1.0)
    assert o.schedule == "cosine"
    assert o.warmup_steps * recipe.train.seq_len == 1000 * 2048
    text = Path(path).read_text()
    for line in text.splitlines():
        if line.startswith(("checkpoint:", "eval:")):
            assert line.endswith("# ours")
    assert "2401.07284" in text


@pytest.mark.parametrize("path", [path for path in TRAIN if "raw" not in path])
def test_domain_and_general_text_are_mixed_as_published(path, at_the_root):
    domain = Path(path).name.split("_")[0]
    stream, general = DOMAINS[domain]
    weights = {name: s.weight for name, s in load_recipe(TrainRecipe, path).streams.items()}
    assert set(weights) == {stream, *GENERAL}
    assert weights[stream] == 1
    assert sum(weights[name] for name in GENERAL) == pytest.approx(general)


@pytest.mark.parametrize("path", ABLATION)
def test_an_ablation_has_the_streams_of_its_name(path, at_the_root):
    streams = load_recipe(TrainRecipe, path).streams
    parts = Path(path).stem.split("_")
    assert bool(GENERAL & set(streams)) == ("general" in parts)
    assert ("abstracts" in streams) == (parts != ["general"])
    if "abstracts" in streams:
        assert ("_raw/" in streams["abstracts"].path) == ("raw" in parts)
    made = {
        f"{recipe.out_dir}/{name}"
        for recipe in (load_recipe(PrepareRecipe, path) for path in DATA)
        for name in recipe.corpora
    }
    assert {stream.path for stream in streams.values()} <= made
    for line in Path(path).read_text().splitlines():
        if line.startswith("#   python -m data.prepare"):
            assert Path(line.split()[-1]).exists()


@pytest.fixture(scope="module")
def corpora(tmp_path_factory, root) -> Path:
    """A folder with a small corpus of every shape that the recipes name, and a tokenizer."""
    from data.config import SentencePieceConfig
    from data.tokenizer import train_sentencepiece

    folder = tmp_path_factory.mktemp("adaptllm")
    where = folder / "corpora"
    sample = root / "data" / "sample"

    def rows(name: str) -> list[dict]:
        return [json.loads(line) for line in (sample / name).read_text().splitlines()]

    def put(name: str, content: bytes) -> None:
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_bytes(content)

    passages = rows("biomedicine.jsonl")[:40]
    articles = "".join(
        f"<PubmedArticle><MedlineCitation><PMID>{i}</PMID><Article><ArticleTitle>{row['title']}"
        f'</ArticleTitle><Abstract><AbstractText Label="AIM">{row["text"]}</AbstractText></Abstract>'
        "</Article></MedlineCitation></PubmedArticle>"
        for i, row in enumerate(passages)
        if not set("<&") & set(row["title"] + row["text"])
    )
    xml = f"<PubmedArticleSet>{articles}</PubmedArticleSet>"
    put("pubmed/pubmed24n0001.xml.gz", gzip.compress(xml.encode()))
    put("finance/a.jsonl.gz", gzip.compress((sample / "finance.jsonl").read_bytes()))
    opinions = [
        row | {"opinions": [{"type": o["type"], "text": o["sections"]} for o in row["opinions"]]}
        for row in rows("law.jsonl")
    ]
    put("law/a.jsonl.gz", gzip.compress("".join(json.dumps(r) + "\n" for r in opinions).encode()))
    pairs = [(row["instruction"], row["output"]) for row in rows("instructions.jsonl")]
    wizard = [
        {
            "idx": f"w{i}",
            "conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}],
        }
        for i, (q, a) in enumerate(pairs[:30])
    ]
    put("wizardlm/evol.json", json.dumps(wizard).encode())
    lima = [{"conversations": [q, a], "source": "s"} for q, a in pairs[30:60]]
    put("lima/train.jsonl", "".join(json.dumps(row) + "\n" for row in lima).encode())
    import pyarrow as pa
    import pyarrow.parquet

    (where / "openorca").mkdir()
    orca = [{"id": f"o{i}", "system_prompt": "", "question": q, "response": a} for i, (q, a) in enumerate(pairs[60:])]  # fmt: skip
    pyarrow.parquet.write_table(pa.Table.from_pylist(orca), where / "openorca" / "1M.parquet")
    texts = [row["text"] for row in passages] + [a for _, a in pairs]
    train_sentencepiece(texts, str(folder / "tokenizer"), SentencePieceConfig(vocab_size=500))
    return folder


@pytest.mark.parametrize("path", [*TRAIN, *ABLATION])
def test_a_training_recipe_dry_runs(path, corpora, at_the_root):
    settings = ["model.init_from=null", f"tokenizer={corpora}/tokenizer"]
    recipe = load_recipe(TrainRecipe, path, settings)
    shown = report(recipe, num_devices=32 if "13b" in path else 16)
    assert "not prepared yet" in shown
    assert ("13,015,864,320" if "13b" in path else "6,738,415,616") in shown


@pytest.mark.parametrize("path", DATA)
def test_a_preparation_dry_runs_and_reads_every_corpus(path, corpora, root, monkeypatch, capsys):
    from data import prepare
    from data.sources import read

    monkeypatch.chdir(corpora)
    # The tests that the recipe names are on a hub; what is read against them is tested elsewhere.
    settings = [f"tokenizer={corpora}/tokenizer", "clean.decontaminate=[]"]
    prepare.main([str(root / path), *settings, "--dry-run"])
    assert "to prepare" in capsys.readouterr().out
    config = load_recipe(PrepareRecipe, str(root / path), settings)
    assert load_recipe(PrepareRecipe, str(root / path)).clean.decontaminate
    for name, corpus in config.corpora.items():
        documents = list(read(corpus, name, set_aside=pytest.fail))
        assert len(documents) >= 7
        if name not in GENERAL:
            assert all("\n" in document.turns[0].text for document in documents)
            assert all(document.meta["title"] for document in documents)
    assert ("lima" in config.corpora) == ("_raw_" not in path)
    assert config.seq_len == (512 if "13b" in path else 2048)


@pytest.mark.parametrize("path", [f"{CONFIGS}/law_data.yaml", f"{CONFIGS}/law_chat_data.yaml"])
def test_a_preparation_runs(path, corpora, root, tmp_path, monkeypatch):
    from data import prepare, rows

    monkeypatch.chdir(tmp_path)
    shutil.copytree(corpora / "corpora", tmp_path / "corpora")
    settings = [f"tokenizer={corpora}/tokenizer", "clean.decontaminate=[]", "workers=1"]
    settings += ["corpora.opinions.comprehension.domain_vocab=null", "heldout.fraction=0.1"]
    config = load_recipe(PrepareRecipe, str(root / path), settings)
    prepare.prepare(config)
    card = json.loads(Path(config.out_dir, "opinions", "card.json").read_text())
    assert card["tasks"]["title"] > 0
    assert card["tasks"]["nli"] > 0
    assert not {"question", "section"} & set(card["tasks"])
    stream = rows.read_stream(f"{config.out_dir}/opinions")
    assert stream is not None
    assert stream["add_bos"] is False or "chat" in path
