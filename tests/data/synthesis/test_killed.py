"""A synthesis job that is killed at random, again and again, ends with the pairs of an unbroken one."""

import random
import subprocess
import sys
import time
from pathlib import Path

from tests.data.synthesis import made

SCRIPT = Path(__file__).with_name("slow_job.py")


def start(tokenizer: Path, out: Path) -> subprocess.Popen:
    out.mkdir(exist_ok=True)
    return subprocess.Popen([sys.executable, str(SCRIPT), str(tokenizer), str(out)])


def test_kills_do_not_show(tmp_path):
    tokenizer = tmp_path / "tokenizer"
    path = made.made_tokenizers.sentencepiece_model(tokenizer)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start(path, whole).wait(timeout=120) == 0
    lot, kills = random.Random(5), 0
    for _ in range(40):
        job = start(path, broken)
        asked = broken / "asked"
        before = len(asked.read_text().splitlines()) if asked.exists() else 0
        goal = before + lot.randrange(5, 60)
        while job.poll() is None:
            if asked.exists() and len(asked.read_text().splitlines()) >= goal:
                job.kill()
                job.wait()
                kills += 1
                break
            time.sleep(0.003)
        else:
            assert job.returncode == 0
            break
    assert kills >= 3
    wanted = (whole / "documents.jsonl").read_text()
    assert (broken / "documents.jsonl").read_text() == wanted
    assert wanted.count('"family": "synthesis"') > 200
    first = (whole / "asked").read_text().splitlines()
    again = (broken / "asked").read_text().splitlines()
    assert len(first) == 150
    assert set(again) == set(first)
    # What was asked twice is what the last moments before each kill had finished.
    assert len(again) - len(first) < 30 * kills
    assert not list((broken / "work").glob("*.jsonl.zst.*"))  # only whole files count
