"""A synthesis job as a process of its own, slow enough to be killed: `python slow_job.py TOKENIZER OUT`.

Its generator makes pairs by rule, a hundredth of a second each, and appends what it was asked to
OUT/asked; OUT/documents.jsonl is written last and whole.
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from data import journal
from data.synthesis.config import SynthesisConfig
from data.synthesis.synthesize import synthesize
from data.tally import Tally
from data.tokenizer import load_tokenizer
from tests.data.synthesis import made


def main(tokenizer: str, out: str) -> None:
    journal.SECONDS = 0.05  # a real job loses at most some seconds of work, this one as much less
    folder = Path(out)

    def generate(prompts):
        for prompt in prompts:
            with (folder / "asked").open("a") as file:
                file.write(made.last_text(prompt).split(".")[0] + "\n")
            time.sleep(0.01)
            yield made.completion(prompt)

    config = SynthesisConfig(rounds=3, window=2048, block_documents=70)
    documents = synthesize(
        made.documents(150),
        config,
        generate=generate,
        tokenizer=load_tokenizer(tokenizer),
        seq_len=2048,
        tally=Tally("articles"),
        work=str(folder / "work" / "synthesis-00000"),
    )
    lines = "".join(document.to_json() + "\n" for document in documents)
    (folder / "documents.part").write_text(lines)
    os.replace(folder / "documents.part", folder / "documents.jsonl")


if __name__ == "__main__":
    main(*sys.argv[1:])
