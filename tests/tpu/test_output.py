"""A worker's output over connections that break: each line once, and the end told from a broken connection."""

import queue
import sys

import pytest

from tpu.output import Log, Stream


@pytest.fixture
def stream(tmp_path):
    return Stream("worker 0", Log(tmp_path), queue.Queue())


def connection(stream, text, code=0, aside=""):
    """One connection that brings this text; how it left the stream."""
    write = f"import sys; sys.stdout.write({text!r}); sys.stderr.write({aside!r}); sys.exit({code})"
    stream.connect([sys.executable, "-c", write])
    assert stream.ended.get(timeout=60) is stream
    return stream.begin, stream.code


def test_what_comes_a_second_time_is_said_once(stream, capsys):
    """gcloud gives the same command again when its connection breaks: the same bytes from the same place on."""
    text = "4 one\n8 two\n" + "4 one\n8 two\n14 three\nend 0\n"
    assert connection(stream, text) == (14, 0)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"[worker 0] {word}" for word in ("one", "two", "three")]
    assert (stream.log.folder / "worker-0.log").read_text() == "one\ntwo\nthree\n"


@pytest.mark.parametrize("code", [0, 1, 255])
def test_without_an_end_only_the_connection_ended_whatever_its_code(stream, code, capsys):
    """1 may be gcloud's own: the service was not there for a moment."""
    error = "ERROR: (gcloud.compute.tpus.tpu-vm.ssh) UNAVAILABLE\n"
    assert connection(stream, "4 one\n8 tw", code, error) == (4, None)
    said = capsys.readouterr().out
    assert "[worker 0] one\n" in said
    assert "tw\n" not in said, "it comes again, whole"
    assert f"[worker 0 gcloud] {error}" in said
    assert connection(stream, "8 two\nend 75\n") == (8, 75)


def test_output_may_look_like_anything(stream, capsys):
    text = "6 end 0\n7 \n15 12 apples\nend 3\n"
    assert connection(stream, text) == (15, 3)
    assert capsys.readouterr().out == "[worker 0] end 0\n[worker 0] \n[worker 0] 12 apples\n"


def test_connections_that_bring_nothing_are_counted_by_whoever_connects(stream):
    stream.failures = 2
    connection(stream, "")
    assert stream.failures == 2
    connection(stream, "4 one\n")
    assert stream.failures == 0


def test_a_line_is_said_once_in_a_row(tmp_path, capsys):
    log = Log(tmp_path)
    for text in ("waiting", "waiting", "there", "waiting"):
        log.once(text)
    assert capsys.readouterr().out.count("waiting") == 2
