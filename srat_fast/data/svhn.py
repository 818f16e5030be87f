"""SVHN's MATLAB files, read after they are verified."""

from __future__ import annotations

import io

import numpy as np

from srat_fast.data.arrays import ImageSet
from srat_fast.errors import UserError


def read_mat(content: bytes, name: str) -> ImageSet:
    """One part of SVHN.

    Args:
        content: of a .mat file whose checksum was right; X is [32, 32, 3, N], y is [N, 1] with the digit 0 as 10.
        name: of the file, for messages.

    Returns:
        Images [N, 32, 32, 3] and digits as labels.

    Raises:
        UserError: not such a file.
    """
    from scipy.io import loadmat

    try:
        found = loadmat(io.BytesIO(content), variable_names=("X", "y"))
        pixels, digits = found["X"], found["y"].reshape(-1).astype(np.int64)
    except Exception as error:  # scipy raises several kinds for a damaged file
        raise UserError("data.root", f"is no MATLAB file of digits: {error}", name) from None
    if pixels.dtype != np.uint8 or pixels.shape != (32, 32, 3, len(digits)) or not len(digits):
        raise UserError(
            "data.root", f"is no set of 32 x 32 pictures: X is {pixels.dtype} {pixels.shape}", name
        )
    if digits.min() < 1 or digits.max() > 10:
        raise UserError("data.root", "is no set of digits: y must lie in 1..10", name)
    return ImageSet(np.ascontiguousarray(pixels.transpose(3, 0, 1, 2)), digits % 10)
