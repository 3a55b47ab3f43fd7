"""What several test folders need: real speech, and random state that tests leave as they found it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tones import write_corpus

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real speech and weights beside the checkout; only its absence may skip a test."""
    if not SHARED.is_dir():
        pytest.skip(f"no real speech: {SHARED} is missing")
    return SHARED


@pytest.fixture(autouse=True)
def _random_state() -> Iterator[None]:
    python_state, numpy_state = random.getstate(), np.random.get_state()
    yield
    random.setstate(python_state)
    np.random.set_state(numpy_state)


@pytest.fixture(scope="session")
def tone_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 128 synthetic clips in a language of tones, with splits by speaker."""
    return write_corpus(tmp_path_factory.mktemp("tones") / "corpus")


@pytest.fixture(scope="session")
def tone_catalog(tone_corpus: Path) -> Path:
    """A catalog with that corpus as its only dataset version."""
    from myna.data.prepare import PrepareSettings, prepare

    db = tone_corpus.parent / "catalog.db"
    prepare([str(tone_corpus)], str(db), PrepareSettings(), workers=1)
    return db
