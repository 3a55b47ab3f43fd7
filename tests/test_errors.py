from __future__ import annotations

import pickle

import pytest

from myna.errors import AudioError, ConfigError, MissingExtraError, MynaError
from myna.samples import RefusalReason


@pytest.mark.parametrize(
    "error",
    [
        MynaError("expected a; received b", "Do c."),
        ConfigError(["first", "second"]),
        AudioError(RefusalReason.SILENT, "expected sound"),
        MissingExtraError("tensorboard", "track"),
    ],
)
def test_errors_survive_the_way_from_a_worker_process(error):
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error)


def test_messages_say_problem_and_remedy():
    assert str(MynaError("expected a; received b", "Do c.")) == "expected a; received b. Do c."
    assert str(ConfigError(["x: wrong"])) == "1 mistake in the configuration\n  - x: wrong"
