"""One process of a run over several: writes what its devices hold of every batch, for test_loader.py to compare.

Arguments: a JSON object with process, num_processes, port, streams {name: folder}, total_rows, batch_rows, seed, out.
Every process has two CPU devices, and the meshes are such that each of the batch's axes crosses processes once.
"""

import json
import os
import sys


def main() -> None:
    told = json.loads(sys.argv[1])
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    os.environ["JAX_PLATFORMS"] = "cpu"

    import jax
    import numpy as np
    from jax.sharding import Mesh
    from jax.sharding import PartitionSpec as P

    from data.config import MixtureConfig, StreamConfig
    from data.loader import batches
    from data.mixture import Deal
    from data.stream import open_streams

    jax.distributed.initialize(f"127.0.0.1:{told['port']}", told["num_processes"], told["process"])
    configs = {name: StreamConfig(path=path) for name, path in told["streams"].items()}
    seq_len = told["seq_len"]
    streams = open_streams(configs, seq_len=seq_len, tokenizer=None)
    deal = Deal(streams, configs, MixtureConfig(), told["total_rows"])
    devices = np.array(
        sorted(jax.devices(), key=lambda d: d.id)
    )  # 0, 1 on process 0; 2, 3 on process 1
    by_process = devices.reshape(told["num_processes"], 2)
    grids = {  # (data, tensor, sequence)
        "data": devices.reshape(4, 1, 1),
        "tensor": by_process.T.reshape(2, 2, 1),
        "sequence": by_process.T.reshape(2, 1, 2),
        "all_sequence": devices.reshape(1, 1, 4),
    }
    held = {}
    for name, grid in grids.items():
        mesh = Mesh(grid, ("data", "tensor", "sequence"))
        for n, batch in enumerate(
            batches(
                streams,
                deal,
                seed=told["seed"],
                global_batch_rows=told["batch_rows"],
                start_row=0,
                stop_row=told["total_rows"],
                mesh=mesh,
                spec=P("data", "sequence"),
                prefetch=2,
            )
        ):
            for key, array in batch.items():
                for shard in array.addressable_shards:
                    index = [
                        s.indices(size)[:2]
                        for s, size in zip(shard.index, array.shape, strict=True)
                    ]
                    place = "/".join([name, str(n), key, json.dumps(index)])
                    held[place] = np.asarray(shard.data)
    np.savez(f"{told['out']}/{told['process']}.npz", **held)


if __name__ == "__main__":
    main()
