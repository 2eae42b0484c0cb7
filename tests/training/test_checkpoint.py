import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tensorstore as ts

from training.checkpoint import Checkpointer, CorruptCheckpoint, LayerReader, read_meta
from training.config import CheckpointConfig
from training.steps import bad_steps, good_steps

META = {"rows": 128, "recipe": {"seed": 0, "lr": 1e-5}, "counts": [1, 2]}
TX = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3, weight_decay=0.1))


def make_params(seed: int) -> dict:
    q, table, down = (
        jax.random.normal(jax.random.key(seed + i), shape)
        for i, shape in enumerate([(4, 32, 2, 16), (101, 32), (4, 64, 32)])
    )
    scale = jnp.full((4, 32), float(seed))
    blocks = {"attn": {"q": q}, "mlp": {"down": down}, "attn_norm": {"scale": scale}}
    return {"embed": {"table": table}, "blocks": blocks}


def make_opt_state(params: dict) -> optax.OptState:
    state = TX.init(params)
    _, state = TX.update(jax.tree.map(lambda x: x * 0.1, params), state, params)
    return state


def abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


PARAMS = abstract(make_params(0))
OPT_STATE = abstract(TX.init(make_params(0)))


def assert_same(left, right) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def write(run: Path, *steps: int, config: CheckpointConfig | None = None, opt: bool = True) -> None:
    with Checkpointer(str(run), config or CheckpointConfig(keep=10)) as checkpointer:
        for step in steps:
            params = make_params(step)
            checkpointer.save(step, params, make_opt_state(params) if opt else None, META)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("original")
    write(run, 10, 20, 30)
    return run


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "run"))


def reopen(run: Path) -> Checkpointer:
    return Checkpointer(str(run), CheckpointConfig(keep=10))


def step_files(run: Path, step: int, item: str = "params") -> list[Path]:
    files = (run / "checkpoints" / str(step) / item).rglob("*")
    return sorted(file for file in files if file.is_file())


def data_file(run: Path, step: int, item: str = "params") -> Path:
    """The file that holds the numbers: the largest."""
    return max(step_files(run, step, item), key=lambda file: file.stat().st_size)


def flip(file: Path, place: int, bit: int) -> None:
    with file.open("r+b") as handle:
        handle.seek(place)
        (byte,) = handle.read(1)
        handle.seek(place)
        handle.write(bytes([byte ^ (1 << bit)]))


def test_round_trip_with_optimizer_state_and_meta(run: Path) -> None:
    with reopen(run) as checkpointer:
        assert checkpointer.steps() == [10, 20, 30]
        found = checkpointer.restore_newest(PARAMS, OPT_STATE)
        older = checkpointer.restore(10, PARAMS, None)
    assert found is not None
    assert (found.step, found.rejected) == (30, {})
    assert_same(found.params, make_params(30))
    assert_same(found.opt_state, make_opt_state(make_params(30)))
    assert {key: found.meta[key] for key in META} == META
    assert found.meta["versions"]["jax"] == jax.__version__
    assert_same(older.params, make_params(10))
    assert older.opt_state is None


def test_weights_alone(tmp_path: Path) -> None:
    write(tmp_path, 0, opt=False)
    with reopen(tmp_path) as checkpointer:
        found = checkpointer.restore_newest(PARAMS, OPT_STATE)
    assert found is not None
    assert (found.step, found.opt_state) == (0, None)
    assert_same(found.params, make_params(0))


def test_an_empty_run_has_nothing_to_restore(tmp_path: Path) -> None:
    with reopen(tmp_path) as checkpointer:
        assert checkpointer.restore_newest(PARAMS, OPT_STATE) is None
        with pytest.raises(ValueError, match="no checkpoint of step 5; steps there: none"):
            checkpointer.restore(5, PARAMS, None)


def test_arrays_may_be_donated_while_the_save_goes_on(tmp_path: Path) -> None:
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x * 1.5 + 1, tree), donate_argnums=0)
    params = {"blocks": {"w": jnp.ones((8, 512, 512))}}
    saved = []
    with Checkpointer(str(tmp_path), CheckpointConfig(keep=10)) as checkpointer:
        for n in range(4):
            checkpointer.save(n, params, None, META)
            saved.append(float(params["blocks"]["w"][0, 0, 0]))
            params = step(params)
        for n in range(4):
            checkpointer.wait()
            found = checkpointer.restore(n, abstract(params), None)
            assert np.all(np.asarray(found.params["blocks"]["w"]) == saved[n])


def test_keeps_the_newest_and_every_so_many(tmp_path: Path) -> None:
    config = CheckpointConfig(keep=2, keep_every=20)
    write(tmp_path, 10, 20, 30, 40, 50, 60, 70, config=config, opt=False)
    assert good_steps(str(tmp_path)) == [20, 40, 60, 70]


def test_bad_steps_do_not_push_out_good_ones(run: Path) -> None:
    flip(data_file(run, 30), data_file(run, 30).stat().st_size // 2, 6)
    with Checkpointer(str(run), CheckpointConfig(keep=2)) as checkpointer:
        assert checkpointer.restore_newest(PARAMS, None).step == 20
        checkpointer.save(25, make_params(25), None, META)  # older than the damaged newest
    assert good_steps(str(run)) == [20, 25]
    assert not (run / "checkpoints" / "30").exists()


@pytest.mark.parametrize("item", ["params", "opt_state"])
def test_every_flipped_bit_that_changes_a_number_is_found(
    original: Path, tmp_path: Path, item: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Bits all over the data file. A flip may hit nothing that is read; then the values must be right."""
    size = data_file(original, 30, item).stat().st_size
    found_bad = 0
    for n in range(12):
        run = Path(shutil.copytree(original, tmp_path / f"{n}"))
        flip(data_file(run, 30, item), size * (2 * n + 1) // 24, n % 8)
        with reopen(run) as checkpointer:
            caplog.clear()
            found = checkpointer.restore_newest(PARAMS, OPT_STATE)
        if found.step == 30:
            assert_same(found.params, make_params(30))
            continue
        found_bad += 1
        assert found.step == 20
        assert_same(found.params, make_params(20))
        (reason,) = found.rejected.values()
        assert "digest" in reason
        assert f"array {item}/" in reason
        assert "step 30" in caplog.text
        assert bad_steps(str(run)) == {30: reason}
    assert found_bad >= 10


def test_the_damaged_array_is_the_one_named(original: Path, run: Path) -> None:
    """Finds a known weight's bytes in the file, and changes that weight."""
    weight = np.asarray(make_params(30)["blocks"]["mlp"]["down"])[2, 5, :8].tobytes()
    (place,) = [
        (file, file.read_bytes().index(weight))
        for file in step_files(run, 30)
        if weight in file.read_bytes()
    ]
    flip(place[0], place[1] + 3, 6)
    with reopen(run) as checkpointer, pytest.raises(CorruptCheckpoint) as caught:
        checkpointer.restore(30, PARAMS, None)
    assert "step 30" in str(caught.value)
    assert "array params/blocks/mlp/down: the digest" in str(caught.value)
    assert "embed" not in str(caught.value)


def test_any_truncated_or_deleted_file_leaves_right_values_or_the_step_before(
    original: Path, tmp_path: Path
) -> None:
    names = [f.relative_to(original) for f in step_files(original, 30)]
    names += [f.relative_to(original) for f in step_files(original, 30, "meta")]
    data = data_file(original, 30).relative_to(original)
    rejected = set()
    for i, name in enumerate(names):
        for how in ("truncate", "delete"):
            run = Path(shutil.copytree(original, tmp_path / f"{i}{how}"))
            file = run / name
            if how == "delete":
                file.unlink()
            else:
                os.truncate(file, file.stat().st_size // 2)
            with reopen(run) as checkpointer:
                found = checkpointer.restore_newest(PARAMS, OPT_STATE)
            assert_same(found.params, make_params(found.step))
            if found.step != 30:
                rejected.add((str(name), how))
                assert found.step == 20
                reason = found.rejected[30]
                assert "array params/" in reason or "file " in reason
    for needed in (
        str(data),
        "checkpoints/30/params/manifest.ocdbt",
        "checkpoints/30/meta/metadata",
    ):
        assert {(needed, "truncate"), (needed, "delete")} <= rejected


def test_a_changed_number_in_meta_is_found(run: Path) -> None:
    path = run / "checkpoints" / "30" / "meta" / "metadata"
    path.write_text(path.read_text().replace('"rows": 128', '"rows": 129'))
    with pytest.raises(CorruptCheckpoint, match=r"step 30 .* digest"):
        read_meta(str(run), 30)
    with reopen(run) as checkpointer:
        assert checkpointer.restore_newest(PARAMS, OPT_STATE).step == 20


def test_a_damaged_step_is_written_anew_when_the_run_reaches_it_again(run: Path) -> None:
    flip(data_file(run, 30), data_file(run, 30).stat().st_size // 2, 6)
    with reopen(run) as checkpointer:
        assert checkpointer.restore_newest(PARAMS, None).step == 20
    with reopen(run) as checkpointer:  # nobody chooses it again
        assert checkpointer.steps() == [10, 20]
        with pytest.raises(CorruptCheckpoint, match="recorded before"):
            checkpointer.restore(30, PARAMS, None)
        checkpointer.save(30, make_params(31), None, META)
    assert bad_steps(str(run)) == {}
    with reopen(run) as checkpointer:
        found = checkpointer.restore_newest(PARAMS, None)
    assert found.step == 30
    assert_same(found.params, make_params(31))


def test_when_all_are_damaged_nothing_is_begun_from_scratch(run: Path) -> None:
    for step in (10, 20, 30):
        data_file(run, step).unlink()
    for _ in range(2):
        with reopen(run) as checkpointer, pytest.raises(CorruptCheckpoint, match="no step is left"):
            checkpointer.restore_newest(PARAMS, None)


def test_another_model_is_a_mistake_and_not_damage(run: Path) -> None:
    other = {**PARAMS, "head": {"kernel": jax.ShapeDtypeStruct((32, 101), jnp.float32)}}
    other["embed"] = {"table": jax.ShapeDtypeStruct((128, 32), jnp.float32)}
    with reopen(run) as checkpointer, pytest.raises(ValueError) as caught:
        checkpointer.restore_newest(other, None)
    assert "params/head/kernel: wanted, not saved" in str(caught.value)
    assert "params/embed/table: saved float32[101, 32], wanted float32[128, 32]" in str(
        caught.value
    )
    assert bad_steps(str(run)) == {}


def test_read_only_changes_nothing(run: Path) -> None:
    half = run / "checkpoints" / "40.orbax-checkpoint-tmp"
    half.mkdir()
    with Checkpointer(str(run), CheckpointConfig(), read_only=True) as checkpointer:
        assert checkpointer.restore_newest(PARAMS, None).step == 30
        with pytest.raises(ValueError, match="read-only"):
            checkpointer.save(40, make_params(0), None, META)
    assert half.exists()
    with reopen(run) as checkpointer:
        assert checkpointer.steps() == [10, 20, 30]
        checkpointer.save(41, make_params(41), None, META)
    assert not half.exists()


def test_an_unwritable_run_directory_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="run_dir: .*file/run cannot be written"):
        Checkpointer(str(tmp_path / "file" / "run"), CheckpointConfig())


KILLED = """
import os, sys, threading, time
import jax.numpy as jnp
from training.checkpoint import Checkpointer
from training.config import CheckpointConfig
run = sys.argv[1]
checkpointer = Checkpointer(run, CheckpointConfig())
params = {"blocks": {"w": jnp.ones((8, 1024, 1024))}}
checkpointer.save(1, params, None, {}, wait=True)

def kill_when_half_written():
    while not any("2.orbax-checkpoint-tmp" in n for n in os.listdir(run + "/checkpoints")):
        pass
    os.kill(os.getpid(), 9)

threading.Thread(target=kill_when_half_written).start()
checkpointer.save(2, params, None, {}, wait=True)
"""


def test_killed_while_saving(tmp_path: Path, root: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=root)
    assert killed.returncode == -9
    names = os.listdir(tmp_path / "checkpoints")
    assert any("2.orbax-checkpoint-tmp" in name for name in names)
    wanted = {"blocks": {"w": jax.ShapeDtypeStruct((8, 1024, 1024), jnp.float32)}}
    with reopen(tmp_path) as checkpointer:
        assert checkpointer.restore_newest(wanted, None).step == 1


MESHES = """
import sys
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from training.checkpoint import Checkpointer
from training.config import CheckpointConfig

SPECS = {"q": P(None, "a", "b"), "table": P(("a", "b")), "scale": P()}
VALUES = {k: np.random.default_rng(i).normal(size=s).astype(np.float32)
          for i, (k, s) in enumerate({"q": (4, 16, 8), "table": (64, 16), "scale": (16,)}.items())}
TX = optax.adamw(1e-3)

def tree(shape):
    mesh = Mesh(np.array(jax.devices()[: shape[0] * shape[1]]).reshape(shape), ("a", "b"))
    return mesh, {"blocks": {k: jax.device_put(v, NamedSharding(mesh, SPECS[k])) for k, v in VALUES.items()}}

def state(mesh, params):
    return jax.tree.map(
        lambda x: x if x.ndim else jax.device_put(x, NamedSharding(mesh, P())), TX.init(params))

def abstract(t):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), t)

run = sys.argv[1]
mesh, params = tree((4, 2))
with Checkpointer(run, CheckpointConfig()) as checkpointer:
    checkpointer.save(7, params, state(mesh, params), {})
for shape in ((8, 1), (2, 2), (1, 1), (2, 4)):
    mesh, params = tree(shape)
    with Checkpointer(run, CheckpointConfig()) as checkpointer:
        found = checkpointer.restore_newest(abstract(params), abstract(state(mesh, params)))
    for k, v in VALUES.items():
        got = found.params["blocks"][k]
        assert got.sharding == params["blocks"][k].sharding, k
        np.testing.assert_array_equal(np.asarray(got), v)
print("restored on every mesh")
"""


def test_restores_on_another_mesh(tmp_path: Path, root: Path) -> None:
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", MESHES, str(tmp_path)],
        cwd=root, env=flags, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == "restored on every mesh", done.stderr
    reader = LayerReader(str(tmp_path), 7)  # sharded layers come back whole
    want = np.random.default_rng(0).normal(size=(4, 16, 8)).astype(np.float32)
    np.testing.assert_array_equal(reader.read("blocks/q", 2), want[2])


PROCESSES = """
import sys
import jax, numpy as np
rank, port, run = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.distributed.initialize(f"localhost:{port}", 2, rank)
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from training.checkpoint import Checkpointer, CorruptCheckpoint
from training.config import CheckpointConfig

mesh = Mesh(np.array(jax.devices()), ("a",))
value = np.random.default_rng(0).normal(size=(4, 16, 8)).astype(np.float32)
def put(v, spec):
    return jax.make_array_from_callback(v.shape, NamedSharding(mesh, spec), lambda i: v[i])
params = {"blocks": {"w": put(value, P(None, "a"))}, "s": put(np.float32(3), P())}
wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), params)
with Checkpointer(run, CheckpointConfig(keep=2)) as checkpointer:
    for step in (1, 2, 3, 4):
        checkpointer.save(step, params, None, {})

# Process 1 alone cannot read its part of step 4.
read = Checkpointer._read
def broken(self, step, *rest):
    if step == 4 and rank == 1:
        raise CorruptCheckpoint(run, step, "array params/blocks/w: gone")
    return read(self, step, *rest)
Checkpointer._read = broken
with Checkpointer(run, CheckpointConfig(keep=2)) as checkpointer:
    found = checkpointer.restore_newest(wanted, None)
    assert found.step == 3 and list(found.rejected) == [4], found
    for shard in found.params["blocks"]["w"].addressable_shards:
        np.testing.assert_array_equal(np.asarray(shard.data), value[shard.index])
    checkpointer.save(4, params, None, {"again": True}, wait=True)
    assert checkpointer.steps() == [3, 4]
print(rank, found.rejected[4])
"""


def test_two_processes_agree_on_what_is_damaged(tmp_path: Path, root: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESSES, str(rank), port, str(tmp_path)],
            cwd=root, env={"JAX_PLATFORMS": "cpu"}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    (out0, err0), (out1, err1) = (child.communicate(timeout=240) for child in pair)
    assert "0 process 1: array params/blocks/w: gone" in out0, err0
    assert "1 array params/blocks/w: gone" in out1, err1
    assert bad_steps(str(tmp_path)) == {}  # written anew
    assert read_meta(str(tmp_path), 4)["again"]
    want = np.random.default_rng(0).normal(size=(4, 16, 8)).astype(np.float32)
    np.testing.assert_array_equal(LayerReader(str(tmp_path), 4).read("blocks/w", 1), want[1])


def read_all(reader: LayerReader) -> Iterator[tuple[str, int | None, np.ndarray]]:
    for key, (shape, _) in reader.keys().items():
        layers = range(shape[0]) if key.startswith("blocks/") else [None]
        for layer in reversed(list(layers)):
            yield key, layer, reader.read(key, layer)


def test_layers_equal_the_arrays_and_verify(run: Path) -> None:
    reader = LayerReader(str(run), 30)
    flat = {"embed/table": make_params(30)["embed"]["table"]}
    flat["blocks/attn/q"] = make_params(30)["blocks"]["attn"]["q"]
    assert reader.keys()["blocks/attn/q"] == ((4, 32, 2, 16), np.dtype("float32"))
    for key, layer, value in read_all(reader):
        if key in flat:
            want = flat[key] if layer is None else flat[key][layer]
            np.testing.assert_array_equal(value, np.asarray(want))
    reader.verify()
    assert reader.meta["rows"] == 128


def test_verify_needs_everything_read(run: Path) -> None:
    reader = LayerReader(str(run), 30)
    reader.read("blocks/attn/q", 1)
    with pytest.raises(ValueError, match=r"missing: .*blocks/attn/q"):
        reader.verify()
    with pytest.raises(ValueError, match="layer 4 of an array of shape"):
        reader.read("blocks/attn/q", 4)
    with pytest.raises(ValueError, match="not an array of step 30"):
        reader.read("blocks/attn/z")


def test_the_layer_reader_finds_damage_and_tells_everybody(run: Path) -> None:
    flip(data_file(run, 30), data_file(run, 30).stat().st_size // 2, 6)
    reader = LayerReader(str(run), 30)
    for _ in read_all(reader):
        pass
    with pytest.raises(CorruptCheckpoint, match=r"step 30 .* array params/.* digest"):
        reader.verify()
    with pytest.raises(CorruptCheckpoint, match="recorded before"):
        LayerReader(str(run), 30)
    with reopen(run) as checkpointer:
        assert checkpointer.restore_newest(PARAMS, None).step == 20
    # The writer spreads arrays over one file or several, as its flushes fall; which holds what is its affair.
    for file in step_files(run, 20):
        if file.parent.name == "d":
            file.unlink()
    with pytest.raises(CorruptCheckpoint, match=r"step 20 .* array params/"):
        LayerReader(str(run), 20).read("embed/table")
    assert good_steps(str(run)) == [10]


def bytes_read() -> int:
    metrics = ts.experimental_collect_matching_metrics("/tensorstore/kvstore/file/bytes_read")
    return sum(value["value"] for metric in metrics for value in metric["values"])


def test_a_layer_costs_its_own_bytes(tmp_path: Path) -> None:
    """16 layers of 1 MiB: the first read of one pays for the index too, the next only for itself."""
    layers = jax.random.normal(jax.random.key(0), (16, 512, 512))
    with reopen(tmp_path) as checkpointer:
        checkpointer.save(1, {"blocks": {"w": layers}}, None, META)
    reader = LayerReader(str(tmp_path), 1)
    before = bytes_read()
    reader.read("blocks/w", 3)
    first = bytes_read() - before
    reader.read("blocks/w", 11)
    second = bytes_read() - before - first
    size = 512 * 512 * 4
    assert size <= first <= 1.05 * size
    assert second == size


def test_bfloat16_and_int_arrays(tmp_path: Path) -> None:
    params = {"a": jnp.arange(99, dtype=jnp.bfloat16) / 7, "n": jnp.int32(5)}
    with reopen(tmp_path) as checkpointer:
        checkpointer.save(1, params, None, META)
        checkpointer.wait()
        found = checkpointer.restore_newest(abstract(params), None)
    assert_same(found.params, params)
    reader = LayerReader(str(tmp_path), 1)
    assert reader.read("a").dtype == jnp.bfloat16
    reader.read("n")
    reader.verify()


def test_a_broken_list_of_bad_steps_is_said_and_not_trusted(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (run / "checkpoints" / "bad.json").write_text('{"30": ')
    assert good_steps(str(run)) == [10, 20, 30]
    assert "bad.json is unreadable" in caplog.text


def test_the_list_of_bad_steps_is_plain_json(run: Path) -> None:
    data_file(run, 30).unlink()
    with reopen(run) as checkpointer:
        checkpointer.restore_newest(PARAMS, None)
    entries = json.loads((run / "checkpoints" / "bad.json").read_text())
    assert list(entries) == ["30"]
    assert entries["30"]["reason"].startswith("array params/")
