"""The capacity model: profiles, lengths and the paper's equations, as functions of values.

Standard library only; no clock, no randomness, no input or output. Nothing else of the project is imported
here.
"""

from prfaas.capacity.curves import Curve, Segment
from prfaas.capacity.errors import InvalidInputError, LengthBeyondProfileError
from prfaas.capacity.lengths import (
    Bucket,
    Lengths,
    LengthSketch,
    TruncatedLogNormal,
    equal_work_buckets,
    mean_length,
    mean_of,
    share_above,
    square_mean_of,
)
from prfaas.capacity.profiles import BITS_PER_BYTE, DecodeRate, KVSize, Wire
from prfaas.capacity.two_site import Means, OperatingPoint, Stage, TwoSite

__all__ = [
    "BITS_PER_BYTE",
    "Bucket",
    "Curve",
    "DecodeRate",
    "InvalidInputError",
    "KVSize",
    "LengthBeyondProfileError",
    "LengthSketch",
    "Lengths",
    "Means",
    "OperatingPoint",
    "Segment",
    "Stage",
    "TruncatedLogNormal",
    "TwoSite",
    "Wire",
    "equal_work_buckets",
    "mean_length",
    "mean_of",
    "share_above",
    "square_mean_of",
]
