"""A tiny domain and its tokenizer, made once."""

import pytest

from evaluation.testbed.compare import train_tokenizer
from evaluation.testbed.streams import make_world
from tests.evaluation.testbed.tiny import tiny


@pytest.fixture(scope="session")
def config():
    return tiny()


@pytest.fixture(scope="session")
def world(config):
    return make_world(config)


@pytest.fixture(scope="session")
def tokenizer(config, world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    return train_tokenizer(config, world, folder)
