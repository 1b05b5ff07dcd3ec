"""Trains a linear classifier of handwritten digits with thirteen labels each, in NumPy.

The images come with scikit-learn: `pip install scikit-learn`.
"""

import numpy as np

import binxent.numpy as bx
from binxent.demo.digits import load
from binxent.labels import count_labels

train, test = load(seed=0)  # each has images, [N, 64] float32, and targets, [N, 13] bool
pos_weight = count_labels(train.targets).pos_weight()  # negatives / positives of each label: [13] float32
weight = np.zeros((64, 13), np.float32)
bias = np.zeros(13, np.float32)
loss = bx.BCEWithLogitsLoss(pos_weight=pos_weight)

for _ in range(200):  # gradient descent over all images, with step size 1
    value, gradient = loss.value_and_grad(train.images @ weight + bias, train.targets)
    weight -= train.images.T @ gradient
    bias -= gradient.sum(axis=0)

print(f"training {value:.5f}, test {loss(test.images @ weight + bias, test.targets):.5f}")
