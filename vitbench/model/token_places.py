"""Which patches attend to which, as lists of cells: windows, rows, columns, neighbourhoods, sparse patterns. No torch.

Cells are numbered row by row.
"""

from __future__ import annotations

import functools

from vitbench.model.sizes import Grid

Groups = list[list[int]]


def windows(grid: Grid, side: int, shift: int = 0) -> Groups:
    """Windows of `side` x `side` cells, after the grid was rolled up and left by `shift`."""
    return [
        [
            (top + y + shift) % grid.rows * grid.columns + (left + x + shift) % grid.columns
            for y in range(side)
            for x in range(side)
        ]
        for top in range(0, grid.rows, side)
        for left in range(0, grid.columns, side)
    ]


def window_regions(grid: Grid, side: int, shift: int) -> Groups:
    """The region of every cell of `windows(grid, side, shift)`: cells that the roll brought together differ in it."""

    def part(place: int, length: int) -> int:
        return (place >= length - side) + (place >= length - shift) if shift else 0

    return [
        [3 * part(top + y, grid.rows) + part(left + x, grid.columns) for y in range(side) for x in range(side)]
        for top in range(0, grid.rows, side)
        for left in range(0, grid.columns, side)
    ]


def offset_rows(side: int) -> Groups:
    """Row of a table of offsets `[(2 side - 1)^2]` for each pair (query, key) of a window."""
    cells = [(y, x) for y in range(side) for x in range(side)]
    width = 2 * side - 1
    return [[(y - v + side - 1) * width + (x - u + side - 1) for v, u in cells] for y, x in cells]


def rows_of(grid: Grid) -> Groups:
    """One group per row."""
    return [[row * grid.columns + column for column in range(grid.columns)] for row in range(grid.rows)]


def columns_of(grid: Grid) -> Groups:
    """One group per column."""
    return [[row * grid.columns + column for row in range(grid.rows)] for column in range(grid.columns)]


@functools.lru_cache(maxsize=64)
def neighbourhoods(grid: Grid, side: int) -> Groups:
    """For each cell, those of the `side` x `side` cells around it that lie on the grid."""
    reach = side // 2
    return [
        [
            row * grid.columns + column
            for row in range(max(0, y - reach), min(grid.rows, y + reach + 1))
            for column in range(max(0, x - reach), min(grid.columns, x + reach + 1))
        ]
        for y in range(grid.rows)
        for x in range(grid.columns)
    ]


@functools.lru_cache(maxsize=64)
def before(num_cells: int) -> Groups:
    """For each cell, itself and those before it in the sequence."""
    return [list(range(query + 1)) for query in range(num_cells)]


@functools.lru_cache(maxsize=64)
def strided(num_cells: int, stride: int) -> Groups:
    """For each cell, those less than `stride` away in the sequence, and those a multiple of `stride` away."""
    return [
        [key for key in range(num_cells) if abs(query - key) < stride or (query - key) % stride == 0]
        for query in range(num_cells)
    ]


@functools.lru_cache(maxsize=64)
def fixed(num_cells: int, block: int, summary: int) -> Groups:
    """For each cell, those of its block of `block` cells, and the last `summary` cells of every block."""
    return [
        [key for key in range(num_cells) if key // block == query // block or key % block >= block - summary]
        for query in range(num_cells)
    ]
