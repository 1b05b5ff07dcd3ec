"""A linear multi-label classifier of the digits, in NumPy."""

import numpy as np

import binxent.numpy as bx
from binxent.demo.digits import balance, load

train, test = load(seed=0)
weight = np.zeros((64, 13), np.float32)
bias = np.zeros(13, np.float32)
loss = bx.BCEWithLogitsLoss(pos_weight=balance(train.targets))

for _ in range(200):
    value, gradient = loss.value_and_grad(train.images @ weight + bias, train.targets)
    weight -= train.images.T @ gradient
    bias -= gradient.sum(axis=0)

print(f"training {value:.5f}, test {loss(test.images @ weight + bias, test.targets):.5f}")
