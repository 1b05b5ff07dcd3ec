"""A linear multi-label classifier of the digits, in JAX."""

import jax
import jax.numpy as jnp

import binxent.jax as bx
from binxent.demo.digits import balance, load

train, test = load(seed=0)
loss = bx.BCEWithLogitsLoss(pos_weight=jnp.asarray(balance(train.targets)))
model = {"weight": jnp.zeros((64, 13)), "bias": jnp.zeros(13)}


def forward(model: dict, images: jax.Array, targets: jax.Array) -> jax.Array:
    return loss(images @ model["weight"] + model["bias"], targets)


@jax.jit
def step(model: dict) -> tuple[jax.Array, dict]:
    value, gradients = jax.value_and_grad(forward)(model, train.images, train.targets)
    return value, jax.tree.map(lambda parameter, gradient: parameter - gradient, model, gradients)


for _ in range(200):
    value, model = step(model)

print(f"training {value:.5f}, test {forward(model, test.images, test.targets):.5f}")
