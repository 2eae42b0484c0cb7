"""Everything on gs://, against a stand-in server: prepare, train, die, go on, evaluate, export, with the usual commands.

The server lives in this process, so the tests look at its objects and choose the moment of a death by the object that is
being written, before it is there. What ends on gs:// must be what ends on a local disk, to the byte.
"""

import json
import os
import re
import signal
import subprocess
import sys
import zlib

import pytest

from tests.storage_server import StorageServer

BUCKET = "bucket"
ROOT = f"gs://{BUCKET}"
STEPS = 12
PREPARE = {
    "out_dir": "unset",
    "train_tokenizer": {"vocab_size": 800},
    "seq_len": 128,
    "heldout": {"fraction": 0.1},
    "workers": 1,
    "corpora": {
        "biomedicine": {
            "path": f"{ROOT}/sample/biomedicine.jsonl", "fields": {"text": "text", "title": "title"},
        },
        "instructions": {
            "path": f"{ROOT}/sample/instructions.jsonl", "convert": "conversation",
            "fields": {"prompt": "instruction", "input": "input", "response": "output"},
        },
    },
}  # fmt: skip
TRAIN = {
    "model": {"preset": "tiny", "num_layers": 2, "embed_dim": 64, "mlp_dim": 96, "num_heads": 4,
              "num_kv_heads": 2, "head_dim": 16},
    "train": {"num_steps": STEPS, "seq_len": 128, "global_batch_rows": 4, "compute_dtype": "float32"},
    "optimizer": {"peak_lr": 1e-3, "warmup_steps": 2},
    "checkpoint": {"every_steps": 4, "keep": 2},
    "eval": {"every_steps": 6, "max_rows": 8},
    "tracking": {"every_steps": 1, "tensorboard": True},
}  # fmt: skip
EXPORT = ("dtype=f32", "max_shard_size=200KB")
# What differs between two runs of one command: when, where and how fast.
TIMES = {"run.json"}


@pytest.fixture(scope="module")
def server(root):
    """A server with the sample corpora and no streams yet."""
    with StorageServer(BUCKET) as server:
        for path in (root / "data" / "sample").glob("*.jsonl"):
            server.put(BUCKET, f"sample/{path.name}", path.read_bytes())
        yield server
        assert not server.refused, "the stand-in did not know what to answer"


@pytest.fixture(scope="module")
def command(server, root, tmp_path_factory):
    """Runs a command at the repository's root; the exit code, and what was printed."""
    environment = os.environ | server.environment()
    environment |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    # Every program is compiled once, by whichever process is first, however quick it was.
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("xla"))}
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}

    def run(*words, killed_at=None):
        """With `killed_at`, SIGKILL comes as an object whose name matches is about to be written."""
        process = subprocess.Popen(
            [sys.executable, *map(str, words)],
            cwd=root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

        def kill(method, name):
            if method == "POST" and re.fullmatch(killed_at, name):
                process.kill()
                return 503
            return None

        if killed_at:
            server.before = kill
        try:
            output = process.communicate(timeout=300)[0]
        finally:
            process.kill()
            if killed_at:
                server.before = lambda method, name: None
        return process.returncode, output

    return run


@pytest.fixture(scope="module")
def streams(server, command, tmp_path_factory):
    """The sample corpora prepared from gs:// to gs://bucket/prepared, and from here to a folder, which is given."""
    folder = tmp_path_factory.mktemp("local")
    server.put(BUCKET, "prepare.yaml", json.dumps(PREPARE).encode())  # JSON is YAML
    local = [f"corpora.{name}.path=data/sample/{name}.jsonl" for name in PREPARE["corpora"]]
    for out, sources in ((f"{ROOT}/prepared", []), (folder / "prepared", local)):
        words = (f"{ROOT}/prepare.yaml", f"out_dir={out}", *sources)
        code, output = command("-m", "data.prepare", *words)
        assert code == 0, output
    return folder / "prepared"


def files(folder):
    """Contents by name."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def objects(server, prefix):
    """Contents by what follows the prefix in the name."""
    names = server.names(BUCKET, prefix + "/")
    return {name.removeprefix(prefix + "/"): server.content(BUCKET, name) for name in names}


def assert_same(ours, theirs, but=()):
    assert ours.keys() == theirs.keys()
    differ = [name for name in ours if ours[name] != theirs[name]]
    assert not [name for name in differ if name.split("/")[-1] not in but]


LIBRARIES = f"""
import sys
from etils import epath
import tensorstore as ts
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

file = epath.Path("{ROOT}/libraries/folder/file.txt")
assert not file.exists()
file.write_text("one")
file.write_text("two")
assert file.read_text() == "two" and file.parent.is_dir() and not file.is_dir()
assert [p.name for p in epath.Path("{ROOT}/libraries").iterdir()] == ["folder"]
large = bytes(range(256)) * 50_000
(file.parent / "large").write_bytes(large)  # 12.8 MB: more than one piece of an upload
assert (file.parent / "large").read_bytes() == large
with (file.parent / "large").open("rb") as opened:
    opened.seek(-3, 2)
    assert opened.read() == large[-3:]
assert {{p.name for p in file.parent.glob("*")}} == {{"file.txt", "large"}}

store = ts.KvStore.open("{ROOT}/libraries/store/").result()
store["key"] = b"1"
first = store.read("key").result().stamp.generation
store.write("key", b"2", if_equal=first).result()
store.write("key", b"3", if_equal=first).result()  # too late: the condition does not hold
assert store["key"] == b"2" and store.list().result() == [b"key"]

writer = ArrayRecordWriter(sys.argv[1], "group_size:1")
for i in range(500):
    writer.write(b"%d " % i * 9000)
writer.close()
epath.Path(sys.argv[1]).copy("{ROOT}/libraries/records")
reader = ArrayRecordReader("{ROOT}/libraries/records")
assert reader.num_records() == 500 and reader.read([499])[0].startswith(b"499 499")

file.parent.rmtree()
assert not file.exists() and "tensorflow" not in sys.modules
"""


def test_three_libraries_meet_in_one_place(server, command, tmp_path):
    code, output = command("-c", LIBRARIES, tmp_path / "records")
    assert code == 0, output
    assert {"python-gcsfs", "tensorstore", "gl-cpp"} <= server.served.keys()
    assert server.names(BUCKET, "libraries/") == ["libraries/records", "libraries/store/key"]


def test_streams_are_those_of_a_local_disk(server, command, streams):
    assert_same(objects(server, "prepared"), files(streams), but=TIMES)
    code, output = command("-m", "data.prepare", f"{ROOT}/prepare.yaml", f"out_dir={ROOT}/prepared")
    assert code == 0
    assert "nothing to do" in output


def test_a_killed_preparation_goes_on(server, command, streams):
    """Killed as its last shard is put in place: the stream is unfinished, and the next run ends as any other."""
    words = ("-m", "data.prepare", f"{ROOT}/prepare.yaml", f"out_dir={ROOT}/again")
    code, output = command(*words, killed_at="again/instructions/rows-train.*")
    assert code == -signal.SIGKILL, output
    left = server.names(BUCKET, "again/")
    assert [name for name in left if "biomedicine/rows-train" in name], "the first shard is there"
    assert not [name for name in left if name.endswith("stream.json")]
    code, output = command(*words)
    assert code == 0, output
    assert_same(objects(server, "again"), files(streams), but=TIMES)


# --- training ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(server, command, streams):
    """The run directory of a local run that nothing happened to."""
    for place, name in ((streams, "local"), (f"{ROOT}/prepared", "gs")):
        used = {n: {"path": f"{place}/{n}"} for n in ("biomedicine", "instructions")}
        whole = TRAIN | {"run_dir": "unset", "tokenizer": f"{place}/tokenizer", "streams": used}
        server.put(BUCKET, f"{name}.yaml", json.dumps(whole).encode())
    run_dir = streams.parent / "run"
    code, output = command("train.py", f"{ROOT}/local.yaml", f"run_dir={run_dir}")
    assert code == 0, output
    return run_dir


@pytest.fixture(scope="module")
def run(server, command, undisturbed):
    """gs://bucket/run: killed twice while a step was half written, and then left to end."""
    words = ("train.py", f"{ROOT}/gs.yaml", f"run_dir={ROOT}/run")
    deaths = (
        (r"run/checkpoints/4/params/manifest\.ocdbt", []),
        (r"run/checkpoints/8/commit_success\.txt", [4]),
    )
    for moment, committed in deaths:
        code, output = command(*words, killed_at=moment)
        assert code == -signal.SIGKILL, output
        step = moment.split("/")[2]
        assert server.names(BUCKET, f"run/checkpoints/{step}/"), "the step was half written"
        assert commits(server, "run") == committed
    refusals = set()

    def busy(method, name):
        """Refuses every fourth object once, as the real storage does at times."""
        if zlib.crc32(name.encode()) % 4 or name in refusals:
            return None
        refusals.add(name)
        return 503

    # An earlier export lies where this one goes, of more files.
    for name in ("config.json", "parity.json", "model-00002-of-00009.safetensors"):
        server.put(BUCKET, f"model/{name}", b"{}")
    server.before = busy
    code, output = command(
        *words, *(f"export.{word}" for word in EXPORT), f"export.out={ROOT}/model"
    )
    server.before = lambda method, name: None
    assert code == 0, output
    assert "verified against" in output
    assert len(refusals) > 5
    return "run"


def commits(server, run_dir):
    names = server.names(BUCKET, f"{run_dir}/checkpoints/")
    found = (re.fullmatch(r".*/checkpoints/(\d+)/commit_success.txt", name) for name in names)
    return sorted(int(match[1]) for match in found if match)


def digests(text):
    return json.loads(text)["digests"]


def losses(text):
    """Of every step, in the order of the lines."""
    lines = map(json.loads, text.decode().splitlines())
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


@pytest.mark.slow
def test_a_killed_run_ends_as_a_local_undisturbed_one(server, run, undisturbed):
    place = f"checkpoints/{STEPS}/meta/metadata"
    ours = digests(server.content(BUCKET, f"{run}/{place}"))
    assert ours == digests((undisturbed / place).read_bytes())
    assert any(key.startswith("opt_state/") for key in ours)
    assert commits(server, run) == [8, STEPS]
    ours = server.content(BUCKET, f"{run}/metrics.jsonl")
    assert losses(ours) == losses((undisturbed / "metrics.jsonl").read_bytes())
    assert len(losses(ours)) == STEPS
    events = [json.loads(line).get("event") for line in ours.decode().splitlines()]
    assert (events.count("start"), events.count("resume")) == (2, 1)
    names = objects(server, run)
    assert {"recipe.yaml", "report.html", "report.png", "tokenizer/tokenizer.model"} <= names.keys()
    assert [name for name in names if name.startswith("tensorboard/")]


def heldout(server, run):
    """The log's lines of held-out numbers."""
    log = server.content(BUCKET, f"{run}/metrics.jsonl").decode().splitlines()
    return [line for line in map(json.loads, log) if "eval/biomedicine/loss" in line]


@pytest.mark.slow
def test_evaluation_measures_what_the_run_did(server, command, run):
    code, output = command("-m", "evaluation.run", f"{ROOT}/{run}", f"--json={ROOT}/scores.json")
    assert code == 0, output
    told = json.loads(server.content(BUCKET, "scores.json"))
    assert told["step"] == STEPS
    assert told["streams"].keys() == {"biomedicine", "instructions"}
    for name, score in told["streams"].items():
        assert score["loss"] == pytest.approx(
            heldout(server, run)[-1][f"eval/{name}/loss"], rel=1e-6
        )


@pytest.mark.slow
def test_export_is_the_same_from_and_to_everywhere(server, command, run, tmp_path):
    """By train.py at its end to gs://, and by the command to a local folder."""
    words = (f"{ROOT}/{run}", tmp_path / "model", *(f"--{word}" for word in EXPORT))
    code, output = command("-m", "model.export", *words)
    assert code == 0, output
    ours, theirs = objects(server, "model"), files(tmp_path / "model")
    assert_same(ours, theirs, but={"parity.json"})  # has seconds
    assert json.loads(ours["parity.json"])["passed"]
    assert len([name for name in ours if name.endswith(".safetensors")]) > 1

    # Read back from there, range by range, it measures what the run does (its documents are packed anew).
    words = (f"{ROOT}/model", f"{ROOT}/gs.yaml", "run_dir=unset", f"--json={ROOT}/exported.json")
    code, output = command("-m", "evaluation.run", *words)
    assert code == 0, output
    first, *_, last = heldout(server, run)
    for name, score in json.loads(server.content(BUCKET, "exported.json"))["streams"].items():
        assert score["loss"] == pytest.approx(last[f"eval/{name}/loss"], rel=2e-3)
        assert score["loss"] != pytest.approx(first[f"eval/{name}/loss"], rel=2e-2)


@pytest.mark.slow
def test_a_deleted_shard_is_named(server, command, run):
    """Of a stream, by train.py; of the newest checkpoint, with its array, by evaluation and training."""
    shard = "rows-train.array_record-00000-of-00001"
    for name, content in objects(server, "prepared").items():
        if name != f"instructions/{shard}":
            server.put(BUCKET, f"torn/{name}", content)
    changed = f"streams.instructions.path={ROOT}/torn/instructions"
    code, output = command("train.py", f"{ROOT}/gs.yaml", f"run_dir={ROOT}/none", changed)
    assert code == 1
    assert "stream instructions" in output
    assert f"shard {shard} is missing" in output

    for name, content in objects(server, run).items():
        server.put(BUCKET, f"damaged/{name}", content)
    folder = f"damaged/checkpoints/{STEPS}/params/"
    sizes = {n: len(server.content(BUCKET, n)) for n in server.names(BUCKET, folder) if "/d/" in n}
    victim = max(sizes, key=lambda name: sizes[name])
    server.delete(BUCKET, victim)
    evaluation = ("-m", "evaluation.run", f"{ROOT}/damaged")
    for words in (evaluation, ("train.py", f"{ROOT}/gs.yaml", f"run_dir={ROOT}/damaged")):
        code, output = command(*words)
        assert code == 0, output
        assert f"step {STEPS}" in output, output
        assert "array params/" in output, output
        assert server.names(BUCKET, "damaged/checkpoints/bad.json"), "nobody chooses it again"
        if words == evaluation:  # so that training finds it for itself
            server.delete(BUCKET, "damaged/checkpoints/bad.json")
    place = f"checkpoints/{STEPS}/meta/metadata"
    again = digests(server.content(BUCKET, f"damaged/{place}"))
    assert again == digests(server.content(BUCKET, f"{run}/{place}")), "written anew, the same"
