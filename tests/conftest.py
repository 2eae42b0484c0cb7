"""What every test may count on: a CPU, no network, and the place of the real text where there is one."""

import os
from pathlib import Path

import pytest

# Before anything imports JAX. Tests that are about an accelerator set JAX_PLATFORMS themselves.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

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
