"""How fast batches come from local disk: `python -m tests.benchmarks.loader [--folder DIR] [--rows N]`.

Writes packed streams of random tokens (kept in `folder` for the next time), deals them 2:1:1 and takes batches as the
training loop would, on one device. The files lie in the page cache, so this is the cost of the code, not of the disk.
"""

import argparse
import itertools
import os
import tempfile
import time
from pathlib import Path

SEQ_LEN = 2048
VOCAB_SIZE = 32_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = str(Path(tempfile.gettempdir()) / "lectern_loader_benchmark")
    parser.add_argument("--folder", default=default, help="where the streams are kept")
    parser.add_argument("--rows", default="20000", help="rows of each stream")
    parser.add_argument("--seconds", default="10", help="seconds for each batch size")
    told = vars(parser.parse_args())
    import jax
    import numpy as np
    from jax.sharding import Mesh
    from jax.sharding import PartitionSpec as P

    from data.config import MixtureConfig, StreamConfig
    from data.loader import batches
    from data.mixture import Deal
    from data.stream import open_streams

    names, weights = ("reading", "questions", "general"), (2.0, 1.0, 1.0)
    folders = [Path(told["folder"]) / told["rows"] / name for name in names]
    for n, folder in enumerate(folders):
        if not (folder / "stream.json").exists():
            write(folder, n, int(told["rows"]))
    configs = {
        name: StreamConfig(path=str(folder), weight=weight)
        for name, folder, weight in zip(names, folders, weights, strict=True)
    }
    streams = open_streams(configs, seq_len=SEQ_LEN, tokenizer=None)

    total = 5_000_000
    begun = time.perf_counter()
    deal = Deal(streams, configs, MixtureConfig(), total)
    deal.counts(total)
    taken = time.perf_counter() - begun
    print(f"dealing {total:,} rows: {taken:.2f} s, {taken / total * 1e6:.2f} µs a row")

    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    print(f"seq_len {SEQ_LEN}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}")
    for batch_rows in (32, 256):
        found = batches(
            streams,
            deal,
            seed=0,
            global_batch_rows=batch_rows,
            start_row=0,
            stop_row=total // batch_rows * batch_rows,
            mesh=mesh,
            spec=P("data", None),
            prefetch=2,
        )
        for _ in range(4):  # what was made ahead while nobody counted
            next(found)
        begun, rows = time.perf_counter(), 0
        for batch in found:
            jax.block_until_ready(batch)
            rows += batch_rows
            if time.perf_counter() - begun > float(told["seconds"]):
                break
        taken = time.perf_counter() - begun
        found.close()
        print(
            f"batches of {batch_rows} rows: {rows / taken:,.0f} rows/s, "
            f"{rows * SEQ_LEN / taken / 1e6:.1f} M tokens/s"
        )


def write(folder: Path, seed: int, num_rows: int, num_shards: int = 8) -> None:
    """A finished stream of rows of random tokens, spread as words are, five documents a row."""
    import numpy as np

    from data.pack import Row
    from data.rows import shard_name, write_shard, write_stream

    rng = np.random.default_rng(seed)

    def row() -> Row:
        tokens = (rng.zipf(1.3, SEQ_LEN) % VOCAB_SIZE).astype(np.int32)
        segment_ids = 1 + np.cumsum(rng.random(SEQ_LEN) < 5 / SEQ_LEN).astype(np.int32)
        return Row(tokens, segment_ids, np.diff(segment_ids, prepend=0) == 0)

    print(f"writing {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    bounds = [num_rows * s // num_shards for s in range(num_shards + 1)]
    for s, (a, b) in enumerate(itertools.pairwise(bounds)):
        write_shard(folder / shard_name(s, num_shards), (row() for _ in range(a, b)))
    tokens = num_rows * SEQ_LEN
    facts = {
        "name": folder.name,
        "seq_len": SEQ_LEN,
        "tokens": tokens,
        "supervised": tokens,
        "tokenizer": "",
    }
    write_stream(folder, facts, [b - a for a, b in itertools.pairwise(bounds)], {})


if __name__ == "__main__":
    main()
