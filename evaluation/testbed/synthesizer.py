"""What a trained synthesizer writes about the articles of the taught entities.

The texts are kept in `out_dir/synthesis`, so that no article is written about twice, whichever run
asks for it.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from data.document import Document
from data.tokenizer import Tokenizer
from evaluation.testbed.config import TestbedConfig
from evaluation.testbed.streams import Convert


def open_synthesizer(config: TestbedConfig, tokenizer: Tokenizer) -> Convert:
    """The stage that puts the synthesizer's pairs behind articles, with our engine.

    Args:
        config: names the synthesizer; `synthesis` and `engine` say how it is run.
        tokenizer: that of the streams.
    """
    from data.synthesis.config import SynthesisConfig
    from data.synthesis.synthesize import synthesize
    from data.tally import Tally
    from model.config import GenerationConfig
    from model.generate import open_engine

    assert config.synthesizer is not None, "the recipe's checks ask for one"
    how = SynthesisConfig.model_validate({"min_text_chars": 1, **config.synthesis})
    engine = open_engine(config.synthesizer, GenerationConfig.model_validate(config.engine))
    folder = Path(config.out_dir) / "synthesis"
    folder.mkdir(parents=True, exist_ok=True)
    facts = f"{config.synthesizer}\0{how.model_dump_json()}\0{tokenizer.fingerprint}"

    def convert(found: Iterable[Document]) -> Iterator[Document]:
        documents = sorted(found, key=lambda document: document.id)
        key = "\0".join([facts, *(document.id for document in documents)])
        path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.jsonl"
        if not path.exists():
            written = synthesize(
                documents,
                how,
                generate=engine.generate,
                tokenizer=tokenizer,
                seq_len=config.run.seq_len,
                tally=Tally("testbed"),
                generator_tokenizer=engine.tokenizer,
                model=config.synthesizer or "",
            )
            partial = path.with_suffix(".partial")
            partial.write_text(
                "".join(document.to_json() + "\n" for document in written), encoding="utf-8"
            )
            partial.replace(path)
        yield from map(Document.from_json, path.read_text(encoding="utf-8").splitlines())

    return convert
