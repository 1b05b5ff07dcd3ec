"""The command ``binxent demo``, which trains a multi-label classifier on real data with the NumPy face alone."""
