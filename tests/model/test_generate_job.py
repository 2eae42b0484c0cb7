"""`python -m model.generate` on files: errors with their line, resuming, the order of the output."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from data.generator import Sampling
from model import generate
from model.config import GenerationConfig
from model.job import Job, Share
from tests.model.tiny_models import make_folder, make_tokenizer, sample_texts


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model of 608 entries."""
    out = tmp_path_factory.mktemp("model")
    make_folder(out, "random_wide", make_tokenizer(out))
    return out


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    rows = []
    for i, text in enumerate(sample_texts()[:18]):
        row = {"id": f"row-{i}", "prompt": text[: 10 + 3 * i], "max_new_tokens": 3 + 5 * (i % 4)}
        if i % 3 == 0:
            row |= {"temperature": 0.9, "seed": i}
        rows.append(row)
    rows[4] = {"id": "talk", "messages": [{"role": "user", "content": "What is a fever?"}]}
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


@pytest.fixture(scope="module")
def engine(folder):
    return generate.open_engine(str(folder), GenerationConfig(slots=4, window=128))


def job(prompts, out, share=Share(), **sampling):  # noqa: B008
    return Job(
        str(prompts), str(out), Sampling(max_new_tokens=6, **sampling), asked={}, share=share
    )


@pytest.fixture(scope="module")
def unbroken(prompts, engine, tmp_path_factory):
    """The file that one run writes."""
    out = tmp_path_factory.mktemp("whole") / "out.jsonl"
    job(prompts, out).run(engine)
    return out.read_bytes()


def test_rows_come_in_the_order_of_the_prompts(prompts, unbroken):
    asked = [json.loads(line)["id"] for line in prompts.read_text().splitlines()]
    rows = [json.loads(line) for line in unbroken.splitlines()]
    assert [row["id"] for row in rows] == asked
    assert all(row["finish"] in ("stop", "length") for row in rows)
    assert rows[1]["num_tokens"] == 8
    assert set(rows[0]) == {"id", "text", "finish", "num_prompt_tokens", "num_tokens"}


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", [1, 7, 17])
def test_a_broken_job_goes_on_to_the_same_file(prompts, engine, unbroken, tmp_path, after):
    out = tmp_path / "out.jsonl"

    class Dying:
        counts = engine.counts

        def generate(self, todo):
            for number, completion in enumerate(engine.generate(todo)):
                if number == after:
                    raise Killed
                yield completion

    with pytest.raises(Killed):
        job(prompts, out).run(Dying())
    assert not out.exists()
    journal = tmp_path / "out.jsonl.part-0"
    with journal.open("ab") as file:
        file.write(b'{"id": "row-3", "text": "half a li')
    asked = []

    class Counting:
        counts = engine.counts

        def generate(self, todo):
            return engine.generate(p for p in todo if asked.append(p.id) is None)

    again = job(prompts, out)
    assert not again.is_done()
    again.run(Counting())
    assert out.read_bytes() == unbroken
    assert len(asked) == 18 - after
    assert job(prompts, out).is_done()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.jsonl", "out.jsonl.job.json"]


def test_several_processes_share_a_job(prompts, engine, unbroken, tmp_path):
    out = tmp_path / "out.jsonl"
    waited = []
    second = Share(1, 2, waited.append)
    job(prompts, out, second).run(engine)
    assert not out.exists()
    job(prompts, out, Share(0, 2, waited.append)).run(engine)
    assert out.read_bytes() == unbroken
    assert waited == ["texts written", "texts in order"] * 2


def test_another_question_with_the_same_file_is_refused(prompts, engine, tmp_path):
    out = tmp_path / "out.jsonl"
    job(prompts, out).run(engine)
    with pytest.raises(ValueError, match="other sampling"):
        job(prompts, out, temperature=0.5)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"prompt": "a", "temprature": 1}', "temprature: no such field"),
        ('{"prompt": "a", "temperature": "hot"}', "temperature: 'hot' is not a number"),
        ('{"prompt": "a", "top_p": 2}', "top_p: 2.0"),
        ('{"prompt": "a", "max_new_tokens": 1.5}', "max_new_tokens: 1.5"),
        ('{"prompt": 3}', "prompt: 3 is not a text"),
        ('{"text": "a"}', "text: no such field"),
        ("{}", "one of the two"),
        ('{"messages": [{"role": "bot", "content": "a"}]}', "role: 'bot'"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', "nothing to reply to"),
        ('{"prompt": "a", "id": "1"}', "'1' stands there twice"),
        ("nonsense", "Expecting value"),
    ],
)
def test_a_row_that_is_no_prompt_is_named_with_its_line(tmp_path, row, message):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "good"}\n' + row + "\n")
    with pytest.raises(ValueError, match=message) as caught:
        job(path, tmp_path / "out.jsonl")
    assert f"{path}:2: " in str(caught.value)


def test_the_command(folder, prompts, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    words = [str(folder), f"--prompts={prompts}", f"--out={out}", "--slots=4", "--window=128"]
    words += ["--max_new_tokens=6", "--logprobs"]
    assert generate.main(words) == 0
    assert "18/18 texts" in capsys.readouterr().err
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(len(row["logprobs"]) == row["num_tokens"] for row in rows)
    assert generate.main(words) == 0
    assert "all 18 texts are there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompts=a.jsonl"], "--out"),
        ([], "--prompts"),
        (["--prompt=a", "--temperature=-1"], "temperature"),
        (["--prompt=a", "--slots=0"], "slots"),
        (["--prompts=gone.jsonl", "--out=b.jsonl"], "gone.jsonl is not there"),
        (["--prompt=a", "--tensor=99"], "tensor: 99"),
        (["--prompt=a", "--window=513"], "window: 513"),
    ],
)
def test_a_wrong_command_line_is_one_message(folder, capsys, words, message):
    with pytest.raises(SystemExit) as left:
        generate.main([str(folder), *words])
    assert left.value.code == 1
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_killed_and_given_again(folder, prompts, tmp_path, root):
    """kill -9 in the middle, twice, and the file is that of an unbroken job."""
    command = [sys.executable, "-m", "model.generate", str(folder), f"--prompts={prompts}"]
    command += ["--slots=2", "--window=128", "--max_new_tokens=40", "--steps=2"]
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    subprocess.run([*command, f"--out={whole}"], cwd=root, check=True, timeout=600)
    journal = tmp_path / "broken.jsonl.part-0"
    for lines in (2, 9):
        process = subprocess.Popen([*command, f"--out={broken}"], cwd=root)
        while process.poll() is None:
            if journal.exists() and journal.read_bytes().count(b"\n") >= lines:
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.01)
        process.wait(timeout=60)
    subprocess.run([*command, f"--out={broken}"], cwd=root, check=True, timeout=600)
    assert broken.read_bytes() == whole.read_bytes()
