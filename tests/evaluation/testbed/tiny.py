"""The testbed at its smallest, for tests."""

import itertools

from evaluation.testbed.config import TestbedConfig
from evaluation.testbed.streams import comprehension, documents

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


def texts_of(found):
    return ["\n".join(turn.text for turn in document.turns) for document in found]


def first_documents(config, world, name, wordings, tokenizer, count=400):
    convert = comprehension(tokenizer, config.run.seq_len) if name == "comprehension" else None
    return list(itertools.islice(documents(config, world, name, wordings, convert), count))
