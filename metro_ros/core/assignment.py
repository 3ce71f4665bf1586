"""Who belongs to whom: the one-to-one assignment of rows to columns with the largest total gain."""

import numpy as np
import numpy.typing as npt


def assign(gain: npt.NDArray[np.floating]) -> list[tuple[int, int]]:
    """Pairs (row, column) of a matrix (N, M) of finite gains, in order of rows: the largest sum a one-to-one
    assignment can have. Only gains above 0 make a pair, so rows and columns may be left over.

    Shortest augmenting paths (Jonker and Volgenant, "A shortest augmenting path algorithm for dense and sparse linear
    assignment problems", Computing 1987), O(n³); SciPy's `linear_sum_assignment` does the same, without which the core
    runs.
    """
    gain = np.maximum(np.asarray(gain, np.float64), 0)
    if gain.shape[0] > gain.shape[1]:
        return sorted((row, column) for column, row in assign(gain.T))
    rows, columns = gain.shape
    row_price, column_price = np.zeros(rows), np.zeros(columns)
    owner = np.full(columns, -1)  # the row that has a column
    for new in range(rows):
        distance, before = np.full(columns, np.inf), np.full(columns, -1)
        done = np.zeros(columns, bool)
        row, column, walked = new, -1, 0.0
        reached = [(new, 0.0)]
        while True:
            through = walked - gain[row] - row_price[row] - column_price
            shorter = ~done & (through < distance)
            distance[shorter], before[shorter] = through[shorter], column
            column = int(np.where(done, np.inf, distance).argmin())
            walked = float(distance[column])
            done[column] = True
            if owner[column] < 0:
                break
            row = int(owner[column])
            reached.append((row, walked))
        for row, at in reached:
            row_price[row] += walked - at
        column_price[done] -= walked - distance[done]
        while column >= 0:  # everyone along the path moves on by one column
            previous = int(before[column])
            owner[column] = owner[previous] if previous >= 0 else new
            column = previous
    pairs = ((int(row), column) for column, row in enumerate(owner) if row >= 0)
    return sorted((row, column) for row, column in pairs if gain[row, column] > 0)
