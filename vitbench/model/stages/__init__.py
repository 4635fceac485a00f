"""Stages, one file each: whether all blocks work on one grid, or the grid becomes coarser between groups of blocks."""
