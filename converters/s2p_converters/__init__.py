"""From an S2P checkpoint to deployable programs and bundles."""
