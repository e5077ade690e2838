"""Exponential and normal distribution on vectors, to fp32 rounding; polynomials fitted for the least largest error.

NaN gives NaN everywhere.
"""

from padless.kernels.vectors import Vector

LOG2_E = 1.4426950408889634
LEAST_EXPONENT = -126.0  # of a normal fp32 number; below it exp2 gives 0
_ROUNDER = 12582912.0  # 1.5 x 2^23: adding it leaves a whole number in the low bits
# 2^r for |r| <= 1/2, relative error 9e-8 before rounding; the constant term is 1.
_EXP2 = (0.001326472731307149, 0.009671512991189957, 0.05550733581185341, 0.24022242426872253, 0.6931470036506653, 1.0)
# (Phi(x) - 1/2) / x in s = 2 x^2 / 5.2^2 - 1, |x| <= 5.2: error of Phi 7e-8 before rounding; beyond, it is 0 or 1.
_PHI_END = 5.2
_PHI = (
    -0.00048127680202014744,
    0.001268511638045311,
    -0.0012214947491884232,
    0.0018001209245994687,
    -0.0047890376299619675,
    0.008559969253838062,
    -0.012505121529102325,
    0.017954785376787186,
    -0.024723628535866737,
    0.03198995813727379,
    -0.039929818361997604,
    0.050024520605802536,
    -0.06774366647005081,
    0.1359499990940094,
)
_DENSITY_AT_0 = 0.3989422804014327


def _polynomial(x: Vector, coefficients: tuple[float, ...]) -> Vector:
    total = x * coefficients[0] + coefficients[1]
    for coefficient in coefficients[2:]:
        total = total * x + coefficient
    return total


def exp2(x: Vector) -> Vector:
    """Return 2^x for x up to 127, 0 below -126."""
    shifted = x + _ROUNDER
    rest = x - (shifted - _ROUNDER)
    return (x < LEAST_EXPONENT).choose(0.0, _polynomial(rest, _EXP2).with_exponent_of(shifted))


def normal_below(x: Vector) -> Vector:
    """Return Phi(x), the standard normal distribution: gelu(x) = x Phi(x)."""
    inner = _polynomial(x * x * (2 / _PHI_END**2) - 1.0, _PHI) * x + 0.5
    return (x < -_PHI_END).choose(0.0, (x > _PHI_END).choose(1.0, inner))


def normal_density(x: Vector) -> Vector:
    """Return exp(-x^2 / 2) / sqrt(2 pi)."""
    return exp2(x * x * (-0.5 * LOG2_E)) * _DENSITY_AT_0
