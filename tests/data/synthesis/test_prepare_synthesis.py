"""`data.prepare` with `convert: synthesis`: the pairs of a server in a packed stream and in its card."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.config import CorpusConfig, FieldsConfig, PrepareConfig, SentencePieceConfig
from data.document import Turn
from data.generator import GeneratorConfig, Prompt
from data.prepare import main, prepare
from data.synthesis.config import SynthesisConfig
from data.view import read_documents
from tests.data.completion_server import CompletionServer, serving
from tests.data.synthesis import made

ROOT = Path(__file__).resolve().parents[3]


def synthesizer(number, body):
    """What the server says: as `made.completion`, to a prompt whose BOS the server has put itself."""
    assert body["prompt"].startswith(" <CON>")
    done = made.completion(Prompt("", (Turn("text", body["prompt"]),)))
    choice = {"text": done.text, "finish_reason": "stop"}
    usage = {"prompt_tokens": len(body["prompt"]) // 4, "completion_tokens": len(done.text) // 4}
    return 200, {}, json.dumps({"choices": [choice], "usage": usage})


@pytest.fixture
def recipe(tmp_path):
    with serving(CompletionServer(synthesizer)) as server:
        rows = tmp_path / "reports.jsonl"
        rows.write_text("".join(json.dumps({"text": made.text_of(n)}) + "\n" for n in range(120)))
        yield (
            PrepareConfig(
                out_dir=str(tmp_path / "out"),
                train_tokenizer=SentencePieceConfig(vocab_size=400),
                seq_len=1024,
                partitions=4,
                workers=1,
                generator=GeneratorConfig(kind="openai", model="m", base_url=server.url),
                corpora={
                    "reports": CorpusConfig(
                        path=str(rows),
                        fields=FieldsConfig(text="text"),
                        convert="synthesis",
                        synthesis=SynthesisConfig(rounds=3, window=2048),
                    )
                },
            ),
            server,
        )


def test_a_recipe_makes_a_stream_with_pairs(recipe, tmp_path, capsys):
    config, server = recipe
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(config.model_dump(mode="json")))
    main([str(path)])
    card = json.loads((tmp_path / "out" / "reports" / "card.json").read_text())
    documents = list(read_documents(tmp_path / "out" / "reports"))
    tasks = [task for document in documents for task in document.meta.get("tasks", ())]
    assert card["tasks"]["synthesis"] == len(tasks) > 150
    assert card["synthesis"]["accepted"] == len(tasks)
    assert card["synthesis"]["rejected"]["outside a pair"] > 0
    asked = len(server.requests)
    assert (
        asked == card["synthesis"]["texts"] == card["documents_in"] - card["heldout"]["documents"]
    )
    assert f"m: {asked} requests (0 again, 0 given up)" in capsys.readouterr().out
    assert card["synthesis"]["tokens_read"] > card["synthesis"]["tokens_written"] > 0
    main([str(path)])  # finished: nothing is asked
    assert len(server.requests) == asked


def test_a_preparation_that_was_stopped_asks_for_nothing_twice(recipe, tmp_path):
    from data.conversion import Writer
    from data.server import Server

    config, _ = recipe
    assert config.generator
    real = Server(config.generator).generate
    given = []

    def writer(limit=None):
        def generate(prompts):
            for completion in real(prompts):
                if len(given) == limit:
                    raise KeyboardInterrupt
                given.append(completion)
                yield completion

        return lambda config: Writer(generate, "m", None)

    with pytest.raises(KeyboardInterrupt):
        prepare(config, open_writer=writer(40))
    finished = len(given)
    prepare(config, open_writer=writer())
    broken = [d.to_json() for d in read_documents(tmp_path / "out" / "reports")]
    texts = json.loads((tmp_path / "out" / "reports" / "card.json").read_text())["synthesis"][
        "texts"
    ]
    assert len(given) == texts
    assert finished == 40
    again = config.model_copy(update={"out_dir": str(tmp_path / "again")})
    prepare(again, open_writer=writer())
    assert broken == [d.to_json() for d in read_documents(tmp_path / "again" / "reports")]


def test_a_job_that_ran_out_of_money_goes_on_with_more(recipe, tmp_path):
    """Prices, limits and the server's place may change between runs; another model is another job."""
    config, server = recipe
    place = tmp_path / "recipe.json"

    def run(**settings):
        generator = config.generator.model_copy(update=settings)
        place.write_text(json.dumps(config.model_copy(update={"generator": generator}).model_dump(mode="json")))  # fmt: skip
        asked = len(server.requests)
        try:
            main([str(place)])
        finally:
            asked = len(server.requests) - asked
        return asked

    costs = {"price_in": 100.0, "price_out": 100.0, "concurrency": 2}
    with pytest.raises(SystemExit):
        run(max_cost=0.5, **costs)
    first = len(server.requests)
    assert first > 5
    rest = run(max_cost=100.0, base_url=server.url.replace("127.0.0.1", "localhost"), **costs)
    card = json.loads((tmp_path / "out" / "reports" / "card.json").read_text())
    assert first + rest == card["synthesis"]["texts"]
    assert run() == 0
    assert run(model="another") == card["synthesis"]["texts"]


@pytest.mark.parametrize("hosts", [2, 3])
def test_hosts_convert_their_own_shards_and_their_number_does_not_show(recipe, tmp_path, hosts):
    config, server = recipe

    def run(out, *flags):
        path = tmp_path / f"{out}.json"
        record = config.model_copy(update={"out_dir": str(tmp_path / out)}).model_dump(mode="json")
        path.write_text(json.dumps(record))
        main([str(path), *flags])
        asked, server.requests[:] = len(server.requests), []
        return asked

    alone = run("alone")
    asked = [run("shared", "--share", f"{host}/{hosts}") for host in reversed(range(hosts))]
    assert sum(asked) == alone
    assert min(asked) > 0
    assert not (tmp_path / "shared" / "reports" / "stream.json").exists()
    assert run("shared") == 0  # finishes, asks for nothing
    assert streams(tmp_path / "alone") == streams(tmp_path / "shared")


def test_a_share_that_is_none_is_refused(recipe, tmp_path, capsys):
    path = tmp_path / "r.json"
    path.write_text(json.dumps(recipe[0].model_dump(mode="json")))
    for share in ("2/2", "1", "a/b"):
        with pytest.raises(SystemExit):
            main([str(path), "--share", share])
        assert "--share" in capsys.readouterr().err


def streams(out: Path) -> list[tuple[Path, bytes]]:
    """Every file of a stream but the one with times and hosts."""
    return sorted(
        (path.relative_to(out), path.read_bytes())
        for path in (out / "reports").rglob("*")
        if path.is_file() and path.name != "run.json"
    )


@pytest.mark.slow
def test_a_preparation_that_is_killed_at_random_ends_with_the_same_stream(recipe, tmp_path):
    """The real command, killed outright at random moments until it gets through."""
    config, server = recipe
    server.delay_s = 0.02
    generator = config.generator.model_copy(update={"concurrency": 4})
    config = config.model_copy(update={"generator": generator})

    def start(out):
        path = tmp_path / f"{out}.json"
        record = config.model_copy(update={"out_dir": str(tmp_path / out)}).model_dump(mode="json")
        path.write_text(json.dumps(record))
        return subprocess.Popen([sys.executable, "-m", "data.prepare", str(path)], cwd=ROOT)

    assert start("whole").wait(timeout=300) == 0
    asked = len(server.requests)
    lot, kills = random.Random(2), 0
    for _ in range(30):
        goal = len(server.requests) + lot.randrange(3, asked // 2)
        job = start("broken")
        while job.poll() is None and len(server.requests) < goal:
            time.sleep(0.005)
        if job.poll() is not None:
            assert job.returncode == 0
            break
        time.sleep(lot.random() / 10)
        job.kill()
        job.wait()
        kills += 1
    assert job.returncode == 0
    assert kills >= 2
    assert streams(tmp_path / "whole") == streams(tmp_path / "broken")
