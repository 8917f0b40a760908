"""Inputs for the retention tests."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from kv_ttl.forecast import BUCKETS, FloatArray, Forecast

fixed = settings(derandomize=True, deadline=None, max_examples=60)
"""Deterministic and without a time limit a case: the machine may be busy."""

durations = st.floats(1e-4, 5000.0)
samples = st.lists(durations, min_size=1, max_size=60)


@st.composite
def outliving(draw: st.DrawFn) -> FloatArray:
    """The share that outlives each bucket, above 0."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return 1 - rng.random(BUCKETS) ** draw(st.sampled_from([2, 6, 20])) * draw(st.floats(0.0, 0.95))


@st.composite
def forecasts(draw: st.DrawFn) -> Forecast:
    """A distribution function at the knots, with some chance of never returning."""
    steps = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).random(BUCKETS) ** draw(st.sampled_from([1, 8, 40]))
    total = draw(st.floats(0.0, 1.0))
    returned = np.concatenate(([0.0], np.cumsum(steps) / max(steps.sum(), 1e-12) * total))
    return Forecast.of(np.minimum(returned, 1.0))
