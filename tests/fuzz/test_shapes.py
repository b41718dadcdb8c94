"""Values of the right shape and out of every range are read, or are the edge's own error."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings

from .conftest import SEED, SHAPES_INPUTS
from .oracle import MEMORY_BYTES_MAX, Figures, within_bounds
from .shapes import SHAPES, Shape

#: Hypothesis remembers all that it has drawn in one of its runs.
RUN_INPUTS_MAX = 1000


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name.replace(" ", "-"))
def test_values_of_a_shape_are_read_or_are_the_edges_own_error(
    shape: Shape, record_property: Callable[[str, object], None]
) -> None:
    inputs = refused = 0

    def tried(drawn: Any) -> None:
        nonlocal inputs, refused
        arm()
        inputs += 1
        try:
            refused += not shape.feed(drawn)
        except shape.errors:
            refused += 1

    begun = time.monotonic()
    with within_bounds(shape.name, MEMORY_BYTES_MAX) as arm:
        for number in range(0, SHAPES_INPUTS, RUN_INPUTS_MAX):
            bounds = settings(
                max_examples=min(SHAPES_INPUTS - number, RUN_INPUTS_MAX),
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            )
            seed(SEED * 1_000_000 + number)(bounds(given(shape.drawn)(tried)))()
    assert refused < inputs
    record_property("fuzz", str(Figures(shape.name, inputs, refused, time.monotonic() - begun)))
