"""Command line, model families, recipes, quantizers and training of s2p-mobile."""
