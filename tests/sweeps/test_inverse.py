"""Inversion of arrays: the same answers as the scalar solver, whatever the guess."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kvplan import solver
from kvplan.sweeps.inverse import largest


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 10**6), min_size=1, max_size=12),
    room=st.integers(-5, 10**12),
    step=st.integers(1, 9),
    guess=st.floats(0, 1e13),
)
def test_equals_the_scalar_solver(sizes: list[int], room: int, step: int, guess: float) -> None:
    """Sizes that grow in steps, rooms from none to plenty, guesses from anywhere."""

    def need(n: int, size: int) -> int:
        return size * -(-n // step)

    expected = [solver.largest(lambda n, size=size: need(n, size) <= room) for size in sizes]
    column = np.array(sizes, dtype="f8")
    found = largest(lambda n: column * np.ceil(n / step) <= room, np.full(len(sizes), guess))
    assert [np.inf if n is None else n for n in expected] == found.tolist()
