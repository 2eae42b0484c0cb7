"""What every test may count on: a CPU, no network, and the place of the real text where there is one."""

import os
from pathlib import Path

import hypothesis
import pytest

# How fast an example runs is the machine's affair: no test fails for the time it took.
hypothesis.settings.register_profile(
    "lectern", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("lectern")

# Before anything imports JAX. Tests that are about an accelerator set JAX_PLATFORMS themselves.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Eight devices, so that every mesh can be tried; what names none runs on the first. With the other
# scheduler jaxlib 0.10.2 lets two gathers of an unrolled loop of layers meet in one rendezvous, and dies.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 "
    "--xla_cpu_enable_concurrency_optimized_scheduler=false",
)
# What a test compiles is compiled there and then, and nothing is left in the user's folders.
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")
# Several test processes use the TPU compiler at once; it thinks that each wants the chip.
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "true")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# transformers reads SentencePiece models through a module made for protobuf 7; Apache Beam has 6.
os.environ.setdefault("TEMPORARILY_DISABLE_PROTOBUF_VERSION_CHECK", "true")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root, where commands are run."""
    return ROOT


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real text named by LECTERN_REALDATA; tests that need it are skipped without it."""
    place = os.environ.get("LECTERN_REALDATA")
    if not place:
        pytest.skip("LECTERN_REALDATA is not set")
    return Path(place)


@pytest.fixture(scope="session")
def sample_streams(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample corpora prepared in rows of 128 tokens: biomedicine, instructions, tokenizer."""
    from data.config import (
        CorpusConfig,
        FieldsConfig,
        HeldOutConfig,
        PrepareConfig,
        SentencePieceConfig,
    )
    from data.prepare import prepare

    out = tmp_path_factory.mktemp("sample") / "prepared"
    passages = FieldsConfig(text="text", title="title")
    exchanges = FieldsConfig(prompt="instruction", input="input", response="output")
    sample = ROOT / "data" / "sample"
    config = PrepareConfig(
        out_dir=str(out),
        train_tokenizer=SentencePieceConfig(vocab_size=800),
        seq_len=128,
        heldout=HeldOutConfig(fraction=0.1),
        workers=1,
        corpora={
            "biomedicine": CorpusConfig(path=str(sample / "biomedicine.jsonl"), fields=passages),
            "instructions": CorpusConfig(
                path=str(sample / "instructions.jsonl"), fields=exchanges, convert="conversation"
            ),
        },
    )
    prepare(config)
    return out
