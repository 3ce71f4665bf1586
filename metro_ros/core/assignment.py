"""The cheapest one-to-one assignment of rows to columns, some of which may stay without: exact, for a few dozen."""

import math

import numpy as np
import numpy.typing as npt


def assign(cost: npt.NDArray[np.floating], limit: float) -> list[tuple[int, int]]:
    """Pairs (row, column) of `cost` (R, C) that cost least in total, where staying alone costs a row `limit`.

    No pair that costs `limit` or more, or NaN, is made. Shortest augmenting paths with potentials, O(R²·C) (Jonker and
    Volgenant, "A Shortest Augmenting Path Algorithm for Dense and Sparse Linear Assignment Problems", Computing 38,
    1987): 20 by 20 take 0.3 ms; SciPy, which has it too, would be 110 MB more on every robot.
    """
    rows, columns = cost.shape
    if not rows or not columns:
        return []
    # A column of its own for every row is where it stays alone. Pairs that are too dear count as staying alone.
    capped = np.where(cost < limit, cost, limit)
    padded = np.concatenate((capped, np.full((rows, rows), float(limit))), axis=1).tolist()
    owner = _cheapest(padded, columns + rows)
    return sorted((row, column) for column, row in enumerate(owner[:columns]) if row >= 0 and cost[row, column] < limit)


def _cheapest(cost: list[list[float]], columns: int) -> list[int]:
    """The row that owns each column, -1 for none; there are at least as many columns as rows. Every row gets one."""
    row_price = [0.0] * len(cost)
    column_price = [0.0] * columns
    owner = [-1] * columns
    for start in range(len(cost)):
        distance = [math.inf] * columns  # of the cheapest alternating path from the row to each column
        came_from = [-1] * columns
        reached: list[int] = []
        open_columns = list(range(columns))
        row, through, here = start, -1, 0.0
        while True:
            nearest = -1
            for column in open_columns:
                length = here + cost[row][column] - row_price[row] - column_price[column]
                if length < distance[column]:
                    distance[column], came_from[column] = length, through
                if nearest < 0 or distance[column] < distance[nearest]:
                    nearest = column
            here, through = distance[nearest], nearest
            if owner[nearest] < 0:
                break
            open_columns.remove(nearest)
            reached.append(nearest)
            row = owner[nearest]
        row_price[start] += here
        for column in reached:
            row_price[owner[column]] += here - distance[column]
            column_price[column] -= here - distance[column]
        while through >= 0:
            before = came_from[through]
            owner[through] = owner[before] if before >= 0 else start
            through = before
    return owner
