"""Pure functions on arrays: metrics, PGR and its intervals, transforms of labels. No torch, no files.

Array names carry their shape: N examples, C classes, S seeds or supervisors, B resamples, K models or kept examples,
D features.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
