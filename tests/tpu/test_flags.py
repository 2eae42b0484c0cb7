"""The table of compiler flags: known generations, no flag without a reason, none that is refused."""

import importlib.util
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import yaml
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tpu import settings
from tpu.flags import FILE, compiler_options
from tpu.topology import described, generations


def test_a_known_generation_has_its_flags_and_others_have_none():
    v5e = compiler_options(SimpleNamespace(device_kind="TPU v5 lite"))  # type: ignore[arg-type]
    assert v5e["xla_tpu_scoped_vmem_limit_kib"] == 32768
    assert compiler_options(SimpleNamespace(device_kind="cpu")) == {}  # type: ignore[arg-type]


def test_every_flag_has_its_reason_above_it():
    lines = FILE.read_text().splitlines()
    settings_of = [i for i, line in enumerate(lines) if re.match(r"\s+\w+:", line)]
    table = yaml.safe_load(FILE.read_text())
    assert len(settings_of) == sum(len(flags) for flags in table.values())
    assert all(generation.startswith("TPU ") for generation in table)
    for at in settings_of:
        assert lines[at - 1].strip().startswith("#"), lines[at]


def flag_sets():
    """(generation, flags): what a step is compiled with, and what a search tries in its place."""
    table = yaml.safe_load(FILE.read_text())
    tried = yaml.safe_load(settings.FILE.read_text())["search"]["flags"]
    for generation in generations().values():
        usual = table.get(generation.kind, {})
        for flags in ({}, *tried.get(generation.kind, [])):
            if usual or flags:
                yield pytest.param(generation, usual | flags, id=f"{generation.name} {flags}")


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is for Linux on x86-64"
)
@pytest.mark.parametrize(("generation", "flags"), flag_sets())
def test_the_compiler_takes_every_set(generation, flags):
    devices = described(f"{generation.name}:{generation.layouts[-1]}")[:1]
    where = NamedSharding(Mesh(np.array(devices), ("one",)), P())
    x = jax.ShapeDtypeStruct((256, 256), jax.numpy.bfloat16, sharding=where)
    jax.jit(lambda x: x @ x).lower(x).compile(compiler_options=flags)
    with pytest.raises(jax.errors.JaxRuntimeError):
        jax.jit(lambda x: x @ x).lower(x).compile(compiler_options=flags | {"xla_tpu_wings": 1})
