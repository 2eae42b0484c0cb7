"""What a compiled decode step of the engine needs and moves on a TPU, with no TPU: needs the `plan` extra.

    python tests/benchmarks/decode_step.py [PRESET TOPOLOGY SLOTS WINDOW]

Default: Llama-3-8B in bfloat16 on v5e:2x4, 32 slots with its whole window of 8,192 tokens. The program is
the planner's (`tpu.programs.decode_step`), which is the engine's own for one step a dispatch.

Bytes moved: operands and results of every top-level instruction, times the trips of the loops around it;
of a fusion's operand that is only sliced inside, the slices, and of one that is updated in place, the
update; of a Pallas kernel, the blocks of its block specs at a full cache. What the compiler keeps in
on-chip memory, layout `S(1)`, is shown apart. Compared with the least that a step can do: read the
weights (all but the rows of the token table that are not looked up) and the cache, once each.
"""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def main() -> None:
    """Compiles and prints."""
    from model.config import ModelConfig
    from tests.benchmarks.moved import moved
    from tpu.programs import decode_step, model_of
    from tpu.topology import described, without_tpu

    given = sys.argv[1:]
    preset, topology, slots, window = given + ["llama3_8b", "v5e:2x4", "32", "8192"][len(given) :]
    without_tpu()
    recipe = SimpleNamespace(model=ModelConfig(preset=preset))
    program = decode_step(recipe, described(topology), slots=int(slots), window=int(window))
    config, settings = model_of(recipe), program.settings
    compiled = program.traced.lower().compile()
    if dump := os.environ.get("DUMP_HLO"):
        Path(dump).write_text(compiled.as_text())
    memory = compiled.memory_analysis()
    cached = (
        (2 * 2 * config.num_layers * int(slots) * config.num_kv_heads * settings["window"])
        * config.head_dim
        / settings["tensor"]
    )
    weights = program.state_bytes - cached
    if not config.tied_head:
        weights -= 2 * config.padded_vocab_size * config.embed_dim / settings["tensor"]
    print(
        f"{preset} {topology}, {slots} slots x {settings['window']}, weights over {settings['tensor']}: "
        f"weights {weights / 2**30:.2f} GiB read of each device, cache {cached / 2**30:.2f} GiB; "
        f"peak {memory.peak_memory_in_bytes / 2**30:.2f} GiB, "
        f"temporaries {memory.temp_size_in_bytes / 2**30:.2f} GiB, "
        f"aliased {memory.alias_size_in_bytes / 2**30:.2f} GiB"
    )
    report = moved(compiled.as_text(), program.kernel_bytes)
    print(
        f"moved {report.total / 2**30:.2f} GiB a step = {report.total / (weights + cached):.3f} x "
        f"(weights + cache), on-chip {report.on_chip / 2**30:.2f} GiB of it"
    )
    for name, count in report.largest(25):
        print(f"  {count / 2**20:10.1f} MiB  {name}")


if __name__ == "__main__":
    main()
