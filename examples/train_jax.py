"""Trains a linear classifier of handwritten digits with thirteen labels each, in JAX.

The images come with scikit-learn: `pip install scikit-learn`.
"""

import jax
import jax.numpy as jnp

import binxent.jax as bx
from binxent.demo.digits import load
from binxent.labels import count_labels

train, test = load(seed=0)  # each has images, [N, 64] float32, and targets, [N, 13] bool
pos_weight = count_labels(train.targets).pos_weight()  # negatives / positives of each label: [13] float32
loss = bx.BCEWithLogitsLoss(pos_weight=jnp.asarray(pos_weight))
model = {"weight": jnp.zeros((64, 13)), "bias": jnp.zeros(13)}


def forward(model: dict, images: jax.Array, targets: jax.Array) -> jax.Array:
    return loss(images @ model["weight"] + model["bias"], targets)


@jax.jit
def step(model: dict) -> tuple[jax.Array, dict]:
    value, gradients = jax.value_and_grad(forward)(model, train.images, train.targets)
    return value, jax.tree.map(lambda parameter, gradient: parameter - gradient, model, gradients)


for _ in range(200):  # gradient descent over all images, with step size 1
    value, model = step(model)

print(f"training {value:.5f}, test {forward(model, test.images, test.targets):.5f}")
