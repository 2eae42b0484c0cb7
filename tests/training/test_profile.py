"""The profiler's window, whatever steps a run has of it."""

import jax.numpy as jnp
import pytest

from training.profile import ProfileWindow


def steps(folder, window, first, last, *, remote=False):
    """Goes through the steps `first` to `last`; gives those during which a trace was being taken."""
    traced = []
    with ProfileWindow(str(folder), window) as profile:
        profile._is_remote = remote  # as in object storage: by way of a local folder
        for step in range(first, last + 1):
            profile.before(step)
            result = jnp.ones(8) + step
            if profile._local is not None:
                traced.append(step)
            profile.after(step, result)
    return traced


@pytest.mark.parametrize(
    ("first", "last", "traced"),
    [
        (1, 6, [3, 4]),  # whole
        (4, 6, [4]),  # goes on inside it
        (1, 3, [3]),  # told to go inside it
    ],
)
def test_what_there_is_of_the_window_is_recorded(first, last, traced, tmp_path):
    assert steps(tmp_path, (3, 4), first, last) == traced
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == 1


def test_nothing_is_recorded_behind_the_window_or_without_one(tmp_path):
    assert steps(tmp_path, (3, 4), 5, 7) == []
    assert steps(tmp_path, None, 1, 3) == []
    assert not (tmp_path / "profile").exists()


def test_object_storage_gets_the_files_when_the_trace_is_done(tmp_path):
    assert steps(tmp_path, (1, 1), 1, 2, remote=True) == [1]
    (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
    assert trace.stat().st_size > 100
