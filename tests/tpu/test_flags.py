"""The table of compiler flags: known generations, and no flag without a reason."""

import re
from types import SimpleNamespace

import yaml

from tpu.flags import FILE, compiler_options


def test_a_known_generation_has_its_flags_and_others_have_none():
    v5e = compiler_options(SimpleNamespace(device_kind="TPU v5 lite"))  # type: ignore[arg-type]
    assert v5e["xla_tpu_scoped_vmem_limit_kib"] == 32768
    assert compiler_options(SimpleNamespace(device_kind="cpu")) == {}  # type: ignore[arg-type]


def test_every_flag_has_its_reason_above_it():
    lines = FILE.read_text().splitlines()
    for generation, flags in yaml.safe_load(FILE.read_text()).items():
        assert generation.startswith("TPU ")
        for flag in flags:
            (at,) = [i for i, line in enumerate(lines) if re.match(rf"\s+{flag}:", line)]
            assert lines[at - 1].strip().startswith("#"), flag
