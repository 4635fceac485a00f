"""The reader of MATLAB files against scipy's, which writes them. Under a second."""

from __future__ import annotations

import io

import numpy as np
import pytest

from vitbench.data.readers.matlab import read_arrays


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "i8", "f4", "f8"])
def test_what_scipy_writes_is_read(dtype: str, packed: bool) -> None:
    from scipy.io import loadmat, savemat

    arrays = {
        "X": np.arange(24, dtype=dtype).reshape(2, 3, 4),
        "y": np.array([[7]], dtype),
        "long_name": np.ones((5, 1)),
    }
    buffer = io.BytesIO()
    savemat(buffer, arrays, do_compression=packed)
    theirs, ours = loadmat(io.BytesIO(buffer.getvalue())), read_arrays(buffer.getvalue())
    assert ours.keys() == arrays.keys()
    for name, array in ours.items():
        assert array.shape == theirs[name].shape
        assert np.array_equal(array, theirs[name])


@pytest.mark.parametrize("value", ["text", {"a": 1}, [1, "b"], 1j])
def test_anything_but_numbers_is_refused(value: object) -> None:
    from scipy.io import savemat

    buffer = io.BytesIO()
    savemat(buffer, {"X": value})
    with pytest.raises(ValueError, match="not an array of real numbers"):
        read_arrays(buffer.getvalue())
