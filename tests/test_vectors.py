"""Products and exponentials in vector registers against numpy: any shape, nothing written beyond it, what is not a number."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from incentive.model import attention, kernels, passes, vectors
from incentive.model.vectors import W, columns, exponentials, greatest, multiply, whole


@njit
def told(x: Any, n: Any, shift: Any, scale: Any, out: Any) -> Any:
    return exponentials(x, n, shift, scale, out), greatest(x, n)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(0, 40), st.integers(1, 75), st.integers(0, 2**32 - 1))
def test_products(rows: int, k: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, w = (rng.normal(size=shape).astype(np.float32) for shape in ((rows + 1, k + 3), (n, k)))
    out = np.full((rows + 1, whole(n) + 5), 7, dtype=np.float32)
    vectors = columns(torch.from_numpy(w)).numpy()
    multiply(a, k + 3, 1, rows, vectors, W, k * W, len(vectors), k, out, out.shape[1], 0)
    np.testing.assert_allclose(out[:rows, :n], a[:rows, :k] @ w.T, atol=1e-4)
    assert (out[:rows, n : whole(n)] == 0).all()
    assert (out[rows] == 7).all()
    assert (out[:, whole(n) :] == 7).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 20), st.integers(1, 75), st.integers(0, 2**32 - 1))
def test_products_of_pairs(rows: int, half: int, n: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    a, w = (torch.randn(*shape, generator=draw).bfloat16() for shape in ((rows, 2 * half), (n, 2 * half)))
    out = np.full((rows + 1, whole(n)), 7, dtype=np.float32)
    vectors = columns(w).numpy().view(np.uint32)
    given = a.view(torch.uint16).numpy()
    multiply(given, half, 1, rows, vectors, W, half * W, len(vectors), half, out, out.shape[1], 0)
    np.testing.assert_allclose(out[:rows, :n], (a.float() @ w.float().T).numpy(), atol=1e-4)
    assert (out[rows] == 7).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.floats(-50, 50), st.floats(-0.8, 0.8), st.integers(0, 2**32 - 1))
def test_exponentials(n: int, shift: float, scale: float, seed: int) -> None:
    x = (np.random.default_rng(seed).normal(size=n + 9) * 20).astype(np.float32)
    out = np.full(n + 9, 7, dtype=np.float32)
    total, most = told(x, n, np.float32(shift), np.float32(scale), out)
    want = np.exp(np.clip(((x[:n] - np.float32(shift)) * np.float32(scale)).astype(np.float64), -64, 88))
    np.testing.assert_allclose(out[:n], want, rtol=5e-7)
    assert abs(total / want.sum() - 1) < 1e-5
    assert most == x[:n].max()
    assert (out[n:] == 7).all()


def test_what_is_not_a_number_stays_so() -> None:
    out = np.zeros(3, dtype=np.float32)
    x = np.array([np.nan, -np.inf, 1.0], dtype=np.float32)
    total, _ = told(x, 3, np.float32(0), np.float32(1), out)
    assert np.isnan(total)
    assert np.isnan(out[0])
    assert 0 < out[1] < 1e-27


def test_what_is_kept_on_disk_is_of_these_files() -> None:
    """A change of `vectors` compiles anew what `kernels` and `attention` have made of it."""
    for function in (multiply, kernels.step, attention.forward, passes.backward):
        assert function._cache._cache_file._source_stamp == vectors._STAMP
    assert len(vectors._STAMP) == len({file.name for file in vectors._FILES}) == 4
