"""Weights on a runtime's integer grid: the grids, the quantiser, and its calibration."""
