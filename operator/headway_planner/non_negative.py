"""Least squares with coefficients that are not negative (Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23).

On the normal equations, which suffices for the dozen columns of a step model: columns are scaled to length 1 first.
"""

import math
from collections.abc import Sequence

_FLAT = 1e-9  # a pivot below this share of its column is a column that the others make up


def solve(rows: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """Coefficients x >= 0 with the least sum of (row * x - value)^2; columns that are not told apart get 0.

    Args:
        rows: one a sample, all of the same length.
        values: one a row.
    """
    width = len(rows[0])
    lengths = [math.sqrt(sum(row[column] ** 2 for row in rows)) or 1.0 for column in range(width)]
    scaled = [[one / length for one, length in zip(row, lengths, strict=True)] for row in rows]
    squares = [[sum(row[i] * row[j] for row in scaled) for j in range(width)] for i in range(width)]
    products = [sum(row[i] * value for row, value in zip(scaled, values, strict=True)) for i in range(width)]
    found = _active_set(squares, products)
    return [one / length for one, length in zip(found, lengths, strict=True)]


def _active_set(squares: list[list[float]], products: list[float]) -> list[float]:
    width = len(products)
    found = [0.0] * width
    used: list[int] = []
    refused: set[int] = set()
    enough = 1e-10 * max(map(abs, products), default=0.0)
    while True:
        slopes = {
            i: products[i] - sum(squares[i][j] * found[j] for j in used)
            for i in range(width)
            if i not in used and i not in refused
        }
        best = max(slopes, key=lambda i: slopes[i], default=None)
        if best is None or slopes[best] <= enough:
            return found
        used.append(best)
        if not _settle(squares, products, used, found) or found[best] <= 0:
            refused.add(best)  # made up of the others, or driven out by rounding at once: never tried again
            used = [i for i in used if i != best]


def _settle(squares: list[list[float]], products: list[float], used: list[int], found: list[float]) -> bool:
    """Go to the least squares of the `used` columns, giving up those that would get negative. False: not told apart."""
    while used:
        wanted = eliminated(squares, products, used)
        if wanted is None:
            return False
        below = [(i, one) for i, one in zip(used, wanted, strict=True) if one <= 0]
        if not below:
            found[:] = [0.0] * len(found)
            for i, one in zip(used, wanted, strict=True):
                found[i] = one
            return True
        step = min(found[i] / (found[i] - one) if found[i] > one else 0.0 for i, one in below)
        for i, one in zip(used, wanted, strict=True):
            found[i] += step * (one - found[i])
        gone = {i for i, _ in below if found[i] <= 1e-12}
        used[:] = [i for i in used if i not in gone]
        for i in gone:
            found[i] = 0.0
    return True


def eliminated(
    squares: Sequence[Sequence[float]], products: Sequence[float], used: Sequence[int]
) -> list[float] | None:
    """Coefficients of the `used` columns that solve the normal equations; None when they are not told apart.

    Args:
        squares: sums of products of two columns, symmetric.
        products: sums of products of a column and the values.
        used: which columns; the others are taken to be 0.
    """
    rows = [[*(squares[i][j] for j in used), products[i]] for i in used]
    size = len(rows)
    flat = [_FLAT * rows[pivot][pivot] for pivot in range(size)]
    for pivot in range(size):
        if rows[pivot][pivot] <= flat[pivot]:
            return None
        for below in range(pivot + 1, size):
            factor = rows[below][pivot] / rows[pivot][pivot]
            rows[below] = [one - factor * other for one, other in zip(rows[below], rows[pivot], strict=True)]
    values = [0.0] * size
    for pivot in reversed(range(size)):
        rest = sum(rows[pivot][other] * values[other] for other in range(pivot + 1, size))
        values[pivot] = (rows[pivot][size] - rest) / rows[pivot][pivot]
    return values
