"""The layouts of the published corpora and of the tuning collection, read from made-up folders."""

import json
import random

import pytest
import yaml

from data.config import PrepareConfig
from data.prepare import prepare
from data.synthesis.published import main, read_manifests, read_texts, read_tuning
from data.view import read_documents
from tests.data.synthesis import made


def corpora(root, suffix=".txt"):
    """Two parts; rows of weight 1 and 3, paths relative to the part and as on their authors' disks."""
    for part in range(2):
        shard = root / f"part-{part}" / "shard"
        shard.mkdir(parents=True)
        for n in range(3):
            texts = [f"Part {part}, shard {n}, text {k}. " + made.text_of(k) for k in range(20)]
            lines = [json.dumps({"text": text}) if k % 2 else json.dumps({"text": text, "id": k}) for k, text in enumerate(texts)]  # fmt: skip
            (shard / f"{n:05d}{suffix}").write_text("\n".join(lines) + "\n")
        manifest = root / f"part-{part}" / "json"
        manifest.mkdir()
        rows = [
            {"source": [f"shard/00000{suffix}"], "source_lang": "en", "weight": 1.0},
            {"source": [f"/mnt/theirs/shard/0000{n}{suffix}" for n in (1, 2)], "source_lang": "en",
             "weight": 3},
        ]  # fmt: skip
        (manifest / "train.json").write_text(json.dumps(rows))
        (manifest / "valid.json").write_text("[]")
    return root


@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_manifests_name_shards_with_weights(tmp_path, suffix):
    sources = read_manifests(corpora(tmp_path, suffix))
    assert [(len(source.files), source.language, source.weight) for source in sources] == [
        (1, "en", 1.0), (2, "en", 3.0), (1, "en", 1.0), (2, "en", 3.0),
    ]  # fmt: skip
    texts = [text for source in sources for text in read_texts(source)]
    assert len(texts) == len(set(texts)) == 120
    assert texts[0].startswith("Part 0, shard 0, text 0. Report 0")


def test_shards_without_manifests_are_one_source(tmp_path):
    corpora(tmp_path)
    for manifest in tmp_path.glob("*/json/*"):
        manifest.unlink()
    (source,) = read_manifests(tmp_path)
    assert len(source.files) == 6
    assert len(list(read_texts(source))) == 120


def test_what_is_wrong_is_named(tmp_path):
    root = corpora(tmp_path / "a")
    manifest = root / "part-0" / "json" / "train.json"
    for row, message in (
        ({"source": "shard/7.txt"}, "row 0: source shard/7.txt is not in"),
        ({"weight": 1}, "has no `source`"),
        ({"source": "shard/00000.txt", "weight": "much"}, "weight is 'much'"),
    ):
        manifest.write_text(json.dumps([row]))
        with pytest.raises(ValueError, match=message):
            read_manifests(root)
    shard = root / "part-1" / "shard" / "00000.txt"
    shard.write_text('{"text": "good"}\nnot json\n')
    source = next(s for s in read_manifests_of(root) if shard in s.files)
    with pytest.raises(ValueError, match=r"00000\.txt:2: no JSON"):
        list(read_texts(source))
    with pytest.raises(ValueError, match=r"has no part-\*/shard"):
        read_manifests(tmp_path / "nothing")


def read_manifests_of(root):
    (root / "part-0" / "json" / "train.json").unlink()
    return read_manifests(root)


def test_the_corpora_become_a_recipe_that_prepares_them(tmp_path):
    root = corpora(tmp_path / "a")
    made.tokenizer(tmp_path / "tokenizer")
    recipe = tmp_path / "recipe.yaml"
    main([
        str(root), "--out", str(recipe), "--tokenizer", str(tmp_path / "tokenizer/tokenizer.model"),
        "--out_dir", str(tmp_path / "out"),
    ])  # fmt: skip
    written = recipe.read_text()
    streams = yaml.safe_load("\n".join(
        line.removeprefix("#") for line in written.splitlines()[2:] if line.startswith("#")
    ))["streams"]  # fmt: skip
    weights = {name: stream["weight"] for name, stream in streams.items()}
    # Texts are as long everywhere, so the shares are those of the manifests: 1 + 1 against 3 + 3.
    assert weights == pytest.approx({"augmented_en_0": 0.25, "augmented_en_1": 0.75}, abs=0.01)
    config = PrepareConfig.model_validate(yaml.safe_load(written) | {"workers": 1, "seq_len": 512})
    prepare(config)
    read = sum(len(list(read_documents(tmp_path / "out" / name))) for name in streams)
    assert read > 100  # of 120; some are held out


def tuning_rows(name: str, count: int) -> list[dict]:
    return [
        {"context": f"{name} context {n}", "QA_type": "free", "rc_name": name,
         "QA_list": [{"Q": f"Q{k}?", "A": "a"} for k in range(n % 7 + 1)]}
        for n in range(count)
    ]  # fmt: skip


def test_the_contexts_with_most_pairs_are_kept(tmp_path):
    for name, count in (("squad", 70), ("race", 20)):
        rows = tuning_rows(name, count)
        random.Random(count).shuffle(rows)
        for shard in range(2):
            path = tmp_path / name / "shard" / f"0000{shard}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows[shard::2]))
    kept = list(read_tuning(tmp_path, most=30))
    assert [row["rc_name"] for row in kept] == ["race"] * 20 + ["squad"] * 30
    sizes = sorted(len(row["QA_list"]) for row in kept if row["rc_name"] == "squad")
    assert sizes == [5] * 10 + [6] * 10 + [7] * 10
    (tmp_path / "squad" / "shard" / "00000.jsonl").rename(tmp_path / "squad" / "shard" / "9.jsonl")
    assert list(read_tuning(tmp_path, most=30)) == kept
    out = tmp_path / "tuning.jsonl"
    main([str(tmp_path), "--out", str(out), "--most", "10"])
    assert len(out.read_text().splitlines()) == 20


def test_rows_of_another_kind_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    with pytest.raises(ValueError, match="no row of the tuning collection"):
        list(read_tuning(tmp_path))
    with pytest.raises(ValueError, match=r"has no \.jsonl"):
        list(read_tuning(tmp_path / "none"))
