"""Tables of the responses of rows against the integrals that they interpolate."""

import numpy as np
import pytest

from depthwidth.numerics.softmax_responses import Responses, _growths


@pytest.mark.slow
def test_rows_that_repel_weakly_have_a_table_of_their_own():
    """As accurate as the table for any negative correlation, which other rows need: 1e-6 at score variances up to 1."""
    tables = Responses(1.0, (2, 10, 300), 64)
    variance, lengths = np.array([0.05, 0.4, 0.9]), np.array([2.0, 10.0, 300.0])

    def growth(correlation):
        table, over_x, over_y = tables.repelling(variance, correlation)
        return np.einsum("fklnm,kp,lp->fpnm", table, over_x, over_y), table.shape[2]

    for correlation, nodes in (([-0.11, -0.2, -0.249], 5), ([-0.11, -0.2, -0.6], 9)):
        found, count = growth(np.array(correlation))
        exact = [
            _growths(np.array([v]), np.array([c]), lengths, 64)[:, 0, 0] for v, c in zip(variance, correlation, strict=True)
        ]
        assert count == nodes
        assert found == pytest.approx(np.stack(exact, axis=1), rel=0, abs=1e-6)
        assert np.abs(found).max() > 0.1  # or nothing was compared
