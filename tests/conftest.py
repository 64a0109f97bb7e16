"""What every test may rely on: strict floating point, one seeded generator."""

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def strict_floating_point():
    """An overflow, an invalid operation or a division by zero is a failure, not a warning."""
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(20061246)
