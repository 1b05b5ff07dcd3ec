"""``binxent demo``: the loss trains a multi-label classifier on real data, with the NumPy face alone."""
