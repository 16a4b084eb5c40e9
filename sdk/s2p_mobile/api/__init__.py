"""The functions of ``s2p_mobile``. Heavy imports happen inside them, so that importing the package is quick."""
