"""What methods begin with: FP trajectories, the width of each layer, activation scales, weights to start from."""
