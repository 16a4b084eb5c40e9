"""Grids, calibration and bit allocation."""
