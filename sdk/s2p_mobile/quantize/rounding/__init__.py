"""What post-training methods share: affine grids, calibration calls, adaptive rounding, learned activation scales."""
