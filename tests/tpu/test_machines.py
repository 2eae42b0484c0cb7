"""Commands that do not get through are given again, some times; what fails on a worker is not."""

from pathlib import Path

import pytest

from tpu import gcloud
from tpu.commands import Commands, Job
from tpu.gcloud import GcloudError, Lease, Seen
from tpu.machines import TRIES, Machines
from tpu.output import Log
from tpu.request import Request

READY = Seen(Lease.READY, (2, 1))


@pytest.fixture
def machines(tmp_path):
    request = Request("demo", "z", "v5litepod-16", slices=2)
    job = Job(("train.py", "a.yaml"), "gs://b/r")
    return Machines(Commands(request, job, Path(tmp_path)), Log(tmp_path), 0.0, hosts=(2, 1))


@pytest.fixture
def google(monkeypatch):
    """What `look` and `must` meet, one after the other; the last one stays. Returns the commands given."""
    looks: list[Seen | GcloudError] = [READY]
    answers: list[str | GcloudError] = ["done"]
    given: list[list[str]] = []

    def next_of(sequence):
        found = sequence.pop(0) if len(sequence) > 1 else sequence[0]
        if isinstance(found, GcloudError):
            raise found
        return found

    def must(words):
        given.append(words)
        return next_of(answers)

    monkeypatch.setattr(gcloud, "look", lambda request: next_of(looks))
    monkeypatch.setattr(gcloud, "must", must)
    return looks, answers, given


LOST = GcloudError("no connection")
FAILED = GcloudError("no such file", reached=True)


def test_what_does_not_get_through_is_given_again(machines, google):
    _, answers, given = google
    answers[:] = [LOST] * TRIES + ["at last"]
    assert machines.tell(["a"]) == "at last"
    assert given == [["a"]] * (TRIES + 1)
    answers[:] = [LOST]
    with pytest.raises(GcloudError, match="no connection"):
        machines.tell(["a"])


def test_what_fails_on_a_worker_or_with_its_machine_fails_at_once(machines, google):
    looks, answers, given = google
    answers[:] = [FAILED]
    with pytest.raises(GcloudError, match="no such file"):
        machines.tell(["a"])
    answers[:], looks[:] = [LOST], [Seen(Lease.LOST)]
    with pytest.raises(GcloudError, match="no connection"):
        machines.tell(["b"])
    assert given == [["a"], ["b"]]


def test_all_workers_of_all_slices_are_told(machines, google):
    _, answers, given = google
    machines.tell_all(lambda worker: [worker.node, str(worker.number), worker.name])
    assert sorted(given) == [
        ["demo-0", "0", "demo-0 0"],
        ["demo-0", "1", "demo-0 1"],
        ["demo-1", "0", "demo-1 0"],
    ]
    answers[:] = [FAILED]
    with pytest.raises(GcloudError, match="no such file"):
        machines.tell_all(lambda worker: [worker.name])


def test_a_network_that_is_away_for_some_time_is_waited_for(machines, google, capsys):
    looks, _, _ = google
    looks[:] = [LOST, LOST, Seen(Lease.READY, (4, 4))]
    assert machines.ready
    assert machines.hosts == (4, 4)
    assert capsys.readouterr().out.count("gcloud does not answer: no connection") == 1
    looks[:] = [Seen(Lease.WAITING)]
    assert not machines.ready
    assert machines.hosts == (4, 4), "those that there were"
    looks[:] = [LOST]
    with pytest.raises(GcloudError):
        machines.look()


def test_machines_are_given_back_though_it_takes_some_tries(machines, google):
    looks, answers, given = google
    answers[:] = [LOST, FAILED, "done"]
    machines.give_back()
    assert len(given) == 3
    assert all("delete" in words for words in given)
    answers[:], looks[:] = [LOST], [READY, Seen(Lease.ABSENT)]
    machines.give_back()
    assert len(given) == 5, "gone is gone, whatever the command said"
    looks[:] = [READY]
    with pytest.raises(GcloudError):
        machines.give_back()
