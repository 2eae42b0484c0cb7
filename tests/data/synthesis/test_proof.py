"""What the proof measures, against counts by hand; and its command over made texts."""

import json
import re

import pytest

from data.document import Document, Turn, document_id
from data.generator import Completion
from data.rows import write_lines
from data.synthesis.config import FiltersConfig
from data.synthesis.format import EOS, Pair, write_context
from data.synthesis.proof import (
    ThresholdsConfig,
    choose,
    figures,
    figures_page,
    grounding,
    main,
    missed,
    page,
    pairs_page,
    parse_rate,
    write,
)

ASPIRIN = "Aspirin reduces fever and pain in adults. It is taken with water twice every day."
HEART = "The heart pumps blood through the vessels. It beats seventy times in each minute."


def document(text: str, *pairs: tuple[str, str]) -> Document:
    turns = [Turn("system", text)]
    for question, answer in pairs:
        turns += [Turn("user", question), Turn("assistant", answer)]
    return Document(document_id(turns), tuple(turns), "test", {})


DOCUMENTS = [
    document(ASPIRIN, ("What does aspirin reduce?", "Fever and pain in adults.")),
    document(HEART, ("What does the heart pump?", "Blood through the vessels.")),
]
SAID = {
    ASPIRIN: (
        "<QUE> What does aspirin reduce? <ANS> Aspirin reduces fever and pain. </END>\n\n"
        "<QUE> How often is it taken? <ANS> It is taken twice every day. </END>"
    ),
    # The second is about nothing that the text says; the third is cut off.
    HEART: (
        "<QUE> What does the heart pump? <ANS> Blood through the vessels. </END>\n\n"
        "<QUE> Where do whales live? <ANS> Whales live mostly below frozen polar oceans. </END>\n\n"
        "<QUE> How often does it beat? <ANS> Seventy times in each"
    ),
}


def generate(prompts):
    for prompt in reversed(list(prompts)):
        assert prompt.literal_special
        assert prompt.sampling.stop == (EOS,)
        for text, said in SAID.items():
            if prompt.turns[0].text == write_context(text):
                ended = "stop" if said.endswith("</END>") else "length"
                yield Completion(prompt.id, said, ended)


@pytest.fixture
def written():
    return write(DOCUMENTS, generate, FiltersConfig(language="off"), 200)


def test_outputs_are_read_in_the_order_of_the_texts(written):
    assert [len(item.pairs) for item in written] == [2, 2]
    assert [item.num_accepted for item in written] == [2, 1]
    assert [item.rejected for item in written] == [(), ("cut off", "not grounded")]


def test_the_parse_rate_counts_pieces_and_not_what_the_filters_refuse(written):
    assert parse_rate(written) == pytest.approx(4 / 5)


def test_grounding_is_of_all_pairs_that_parse_against_their_own_and_another_text():
    pairs = [Pair("?", "Aspirin reduces whales."), Pair("?", "It pumps blood.")]
    found = grounding([("a", ASPIRIN, pairs), ("b", HEART, [])])
    # Content words: aspirin, reduces, whales; pumps, blood.
    assert found.own[1] == pytest.approx((2 / 3 + 0) / 2)
    assert found.other[1] == pytest.approx((0 + 1) / 2)
    assert found.ratio(1) == pytest.approx(2 / 3)
    alone = grounding([("a", ASPIRIN, pairs[:1]), ("b", "Nothing alike.", [])])
    assert alone.ratio(1) is None  # nothing of it is in the other text: no number of times
    assert grounding([("a", ASPIRIN, []), ("b", HEART, [])]).ratio(1) == 0  # no pairs, no praise


def test_figures_and_what_they_miss(written):
    told = figures(written)
    assert told["texts"] == 2
    assert told["pairs"] == 4
    assert told["accepted_per_text"] == 1.5
    assert told["ended_by_itself"] == 0.5
    assert told["rejected"] == {"cut off": 1, "not grounded": 1}
    assert told["grounded"]["1"]["own"] == pytest.approx((1 + 1 + 1 + 0) / 4)
    assert told["grounded"]["1"]["pages_own"] == 1.0
    assert told["grounded"]["1"]["pages_other"] == 0.0
    lines = missed(told, ThresholdsConfig())
    assert [line.split(":")[0] for line in lines] == ["parse_rate", "accepted"]
    assert not missed(told, ThresholdsConfig(parse_rate=0.8, accepted=1.5))


def test_the_page_shows_so_many_pairs_as_they_came(written):
    told = figures(written) | {"augmented": [(0, 3.0), (9, 2.0)], "raw": [(0, 3.0), (9, 2.5)]}
    text = page(told, written, 3)
    assert "| pieces that parse as pairs | 80.0% |" in text
    assert "| texts alone | 3.0000 | 2.5000 |" in text
    assert "> The heart pumps blood through the vessels. It beats" in text
    assert "3. **What does the heart pump?**  \n   Blood through the vessels.\n" in text
    assert "whales" not in text
    assert "polar oceans. *(refused: not grounded)*" in pairs_page(written, 9)
    assert text.startswith(figures_page(told))


def test_the_documented_figures_are_of_one_run_that_meets_the_thresholds(root):
    told = json.loads((root / "docs/synthesis_proof.json").read_text())
    assert (told["texts"], missed(told, ThresholdsConfig())) == (200, [])
    shown = (root / "docs/synthesis_proof.md").read_text()
    assert figures_page(told) in shown
    assert len(re.findall(r"^\d+\. \*\*", shown, re.MULTILINE)) == 50
    said = (root / "docs/synthesis.md").read_text()
    one, three = told["grounded"]["1"], told["grounded"]["3"]
    for line in (
        f"parse as pairs | {told['parse_rate']:.1%} |".replace("%", " %"),
        f"at their defaults | {told['accepted_per_text']:.2f} |",
        f"| {one['own']:.3f} against {one['other']:.3f}: {one['ratio']:.1f} times |",
        f"| {three['own']:.3f} against {three['other']:.3f} |",
    ):
        assert line in said


def test_texts_are_drawn_by_their_ids():
    documents = [document(f"Text {i}.") for i in range(50)]
    chosen = choose(documents, 10)
    assert chosen == choose(documents[::-1], 10)
    assert chosen == choose(documents, 20)[:10]


def test_a_generator_that_fails_is_said():
    def failing(prompts):
        for prompt in prompts:
            yield Completion(prompt.id, "", "error", error="the window is full")

    with pytest.raises(ValueError, match="the window is full"):
        write(DOCUMENTS, failing, FiltersConfig(), 200)


def test_the_command_runs_what_the_recipe_names_and_says_what_was_missed(
    tmp_path, monkeypatch, capsys
):
    write_lines(tmp_path / "texts.jsonl.zst", [item.to_json() for item in DOCUMENTS])
    for name, last in (("augmented", 2.0), ("raw", 2.5)):
        lines = [
            {"event": "start"},
            {"step": 0, f"eval/{name}/loss": 9.0, f"eval/{name}/bits_per_byte": 3.0},
            {"step": 50, "loss": 4.0},
            {"step": 100, f"eval/{name}/loss": 5.0, f"eval/{name}/bits_per_byte": last},
        ]
        (tmp_path / name).mkdir()
        text = "\n".join(map(json.dumps, lines))
        (tmp_path / name / "metrics.jsonl").write_text(text)
    opened = []

    class Engine:
        def __init__(self, source, generation):
            opened.append((source, generation.slots))

        generate = staticmethod(generate)

    monkeypatch.setattr("model.generate.open_engine", Engine)
    script = tmp_path / "said.py"
    script.write_text("import sys; print('ran', *sys.argv[1:]); sys.exit('fail' in sys.argv)")
    recipe = {
        "out_dir": str(tmp_path),
        "commands": [f"{script} one.yaml", f"{script} two.yaml"],
        "synthesizer": "runs/made",
        "texts": str(tmp_path / "texts.jsonl.zst"),
        "engine": {"slots": 3},
        "augmented": str(tmp_path / "augmented"),
        "raw": str(tmp_path / "raw"),
        "filters": {"language": "off"},
        "thresholds": {"parse_rate": 0.8, "accepted": 1.5},
    }
    path = tmp_path / "proof.yaml"
    path.write_text(json.dumps(recipe))  # YAML is a superset
    assert main([str(path)]) == 0
    assert opened == [("runs/made", 3)]
    told = json.loads((tmp_path / "proof.json").read_text())
    assert told["augmented"] == [[0, 3.0], [100, 2.0]]
    assert told["raw"] == [[0, 3.0], [100, 2.5]]
    assert "**Where do whales live?**" in (tmp_path / "proof.md").read_text()

    assert main([str(path), "thresholds.accepted=1.6"]) == 1
    assert "missed: accepted: 1.500, wanted are 1.6" in capsys.readouterr().out
    assert main([str(path), f"commands=['{script} fail', '{script} never']"]) == 1
    assert len(opened) == 2  # a command that fails ends it
