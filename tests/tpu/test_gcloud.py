"""What Google's names and answers mean, and whose failure a failure is."""

import json

import pytest

from tpu import gcloud
from tpu.gcloud import Done, GcloudError, Lease, look, must
from tpu.request import Request


def request(type_="v5litepod-16", **more):
    return Request("demo", "z", type_, **more)


@pytest.fixture
def answers(monkeypatch):
    """gcloud's answers by the name that is asked for: a state, or an error."""
    given: dict[str, str] = {}

    def run(words, *, timeout=None):
        group, verb, name = words[3:6]
        state = given.get(f"{group} {name}")
        assert verb == "describe"
        if state is None:
            return Done(1, "", f"ERROR: (gcloud) NOT_FOUND: Resource {name!r} was not found")
        if state.startswith("ERROR"):
            return Done(1, "", state)
        ends = [{"ipAddress": f"10.0.0.{i}"} for i in range(4)]
        node = {"state": state, "networkEndpoints": ends}
        return Done(0, json.dumps(node if group == "tpu-vm" else {"state": {"state": state}}), "")

    monkeypatch.setattr(gcloud, "run", run)
    return given


@pytest.mark.parametrize(
    ("state", "lease"),
    [
        ("CREATING", Lease.WAITING),
        ("ACCEPTED", Lease.WAITING),
        ("WAITING_FOR_RESOURCES", Lease.WAITING),
        ("PROVISIONING", Lease.WAITING),
        ("FAILED", Lease.FAILED),
        ("DELETING", Lease.WAITING),
        ("SUSPENDING", Lease.LOST),
        ("SUSPENDED", Lease.LOST),
        ("OF_NEXT_YEAR", Lease.WAITING),
    ],
)
def test_every_state_of_a_queued_request(answers, state, lease):
    answers["queued-resources demo"] = state
    seen = look(request())
    assert seen.lease is lease
    assert state in seen.why


@pytest.mark.parametrize(
    ("state", "lease"),
    [
        ("CREATING", Lease.WAITING),
        ("STARTING", Lease.WAITING),
        ("RESTARTING", Lease.WAITING),
        ("REIMAGING", Lease.WAITING),
        ("REPAIRING", Lease.WAITING),
        ("READY", Lease.READY),
        ("STOPPED", Lease.LOST),
        ("STOPPING", Lease.LOST),
        ("PREEMPTED", Lease.LOST),
        ("TERMINATED", Lease.LOST),
        ("DELETING", Lease.LOST),
        ("HIDDEN", Lease.LOST),
        ("UNKNOWN", Lease.LOST),
    ],
)
def test_every_state_of_a_machine(answers, state, lease):
    answers["tpu-vm demo"] = state
    assert look(request(queued=False)).lease is lease
    answers["queued-resources demo"] = "ACTIVE"
    seen = look(request())
    assert seen.lease is lease
    assert seen.hosts == ((4,) if lease is Lease.READY else ())


def test_one_slice_that_is_lost_is_all_of_them(answers):
    asked = request(slices=3)
    answers |= {"queued-resources demo": "ACTIVE"} | {f"tpu-vm demo-{i}": "READY" for i in range(3)}
    assert look(asked).hosts == (4, 4, 4)
    answers["tpu-vm demo-1"] = "REPAIRING"
    assert look(asked).lease is Lease.WAITING
    answers["tpu-vm demo-2"] = "PREEMPTED"
    assert look(asked).lease is Lease.LOST
    del answers["tpu-vm demo-2"]
    assert look(asked).lease is Lease.LOST, "ACTIVE, and a node is gone"


def test_what_is_not_there_and_what_cannot_be_said(answers):
    assert look(request()).lease is Lease.ABSENT
    assert look(request(queued=False)).lease is Lease.ABSENT
    answers["queued-resources demo"] = "ERROR: (gcloud) UNAVAILABLE"
    with pytest.raises(GcloudError, match="UNAVAILABLE"):
        look(request())


@pytest.mark.parametrize(
    ("code", "error", "reached"),
    [
        (1, "SSH: Attempting to connect to worker 0...\nno such file", True),
        (2, "##### Command execution on worker 1 failed with exit status 2. Continuing.", True),
        (255, "Permission denied (publickey)", False),
        (1, "ERROR: (gcloud.compute.tpus.tpu-vm.ssh) UNAVAILABLE", False),
        (1, "ERROR: (gcloud.compute.tpus.tpu-vm.scp) SSH Key is not present", False),
    ],
)
def test_a_failure_on_a_worker_is_told_from_gclouds_own(monkeypatch, code, error, reached):
    monkeypatch.setattr(gcloud, "run", lambda words: Done(code, "", error))
    with pytest.raises(GcloudError) as failure:
        must(gcloud.ssh(request(), "demo", 0, "true"))
    assert failure.value.reached is reached
    assert error in str(failure.value)


def test_no_answer_in_time_is_a_failure():
    with pytest.raises(GcloudError, match="no end after 0 s: sleep 9"):
        gcloud.run(["sleep", "9"], timeout=0.1)
    with pytest.raises(GcloudError, match="not installed"):
        gcloud.run(["a-command-that-is-not-there"])


@pytest.mark.parametrize(
    ("type_", "chips", "hosts", "runtime"),
    [
        ("v4-8", 4, 1, "tpu-ubuntu2204-base"),
        ("v4-32", 16, 4, "tpu-ubuntu2204-base"),
        ("v5litepod-4", 4, 1, "v2-alpha-tpuv5-lite"),
        ("v5litepod-8", 8, 1, "v2-alpha-tpuv5-lite"),
        ("v5litepod-16", 16, 4, "v2-alpha-tpuv5-lite"),
        ("v5litepod-256", 256, 64, "v2-alpha-tpuv5-lite"),
        ("v5p-8", 4, 1, "v2-alpha-tpuv5"),
        ("v5p-32", 16, 4, "v2-alpha-tpuv5"),
        ("v6e-8", 8, 1, "v2-alpha-tpuv6e"),
        ("v6e-16", 16, 4, "v2-alpha-tpuv6e"),
    ],
)
def test_accelerator_types_of_every_generation(type_, chips, hosts, runtime):
    """Chips, VMs and software versions as Cloud TPU's pages on v4, v5e, v5p and v6e have them."""
    asked = request(type_)
    assert (asked.chips, asked.hosts) == (chips, hosts)
    assert f"--runtime-version={runtime}" in gcloud.create(asked)
    assert f"--accelerator-type={type_}" in gcloud.create(asked)
    assert "--runtime-version=mine" in gcloud.create(request(type_, runtime="mine"))
