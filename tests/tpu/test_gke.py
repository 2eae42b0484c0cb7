"""The JobSet fits itself: hosts and chips of the slice, Python as process 1, restarts as `tpu.launch` does them."""

import math
import re

import pytest
import yaml

from tests.configs.test_recipes import RECIPES


@pytest.fixture
def jobset(root):
    return yaml.safe_load((root / "tpu" / "gke.yaml").read_text())


@pytest.fixture
def job(jobset):
    return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]


def test_hosts_and_chips_are_those_of_the_slice(job):
    pod = job["template"]["spec"]
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = math.prod(map(int, topology.split("x")))
    container = pod["containers"][0]
    env = {entry["name"]: entry["value"] for entry in container["env"]}
    assert job["parallelism"] == job["completions"] == int(env["LECTERN_PROCESSES"])
    assert job["parallelism"] * container["resources"]["limits"]["google.com/tpu"] == chips
    assert int(env["LECTERN_DEVICES"]) == chips


def test_python_is_process_one_and_has_time_to_save(job):
    pod = job["template"]["spec"]
    command = pod["containers"][0]["command"]
    assert command[:2] == ["python", "train.py"]
    assert command[2] in RECIPES
    assert pod["terminationGracePeriodSeconds"] >= 30


def test_an_error_ends_it_and_anything_else_starts_it_again(jobset, job):
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"]["values"] == [1]
    assert rule["onExitCodes"]["containerName"] == job["template"]["spec"]["containers"][0]["name"]
    assert job["backoffLimit"] == 0
    policy = jobset["spec"]["failurePolicy"]
    assert policy["maxRestarts"] > 0
    assert policy["rules"][0]["action"] == "FailJobSet"
    # JobSet's own rule for names (no hyphens), and Kubernetes' for pods with a failure policy.
    assert re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", policy["rules"][0]["name"])
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    assert policy["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]
