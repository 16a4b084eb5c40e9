"""What every target starts from: the U-Net graph, grids, the S2P checkpoint, its float64 reference, sampling plans."""
