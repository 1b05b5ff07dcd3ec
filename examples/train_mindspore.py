"""Trains a linear classifier of handwritten digits with thirteen labels each, in MindSpore.

The images come with scikit-learn: `pip install scikit-learn`.
"""

import mindspore as ms

import binxent.mindspore as bx
from binxent.demo.digits import load
from binxent.labels import count_labels

train, test = load(seed=0)  # each has images, [N, 64] float32, and targets, [N, 13] bool
pos_weight = count_labels(train.targets).pos_weight()  # negatives / positives of each label: [13] float32
images, targets = ms.Tensor(train.images), ms.Tensor(train.targets)
model = ms.nn.Dense(64, 13, weight_init="zeros", bias_init="zeros")
optimizer = ms.nn.SGD(model.trainable_params(), 1.0)
loss = bx.BCEWithLogitsLoss(pos_weight=ms.Tensor(pos_weight))


def forward(images: ms.Tensor, targets: ms.Tensor) -> ms.Tensor:
    return loss(model(images), targets)


value_and_grad = ms.value_and_grad(forward, None, optimizer.parameters)
for _ in range(200):
    value, gradients = value_and_grad(images, targets)
    optimizer(gradients)

final = forward(ms.Tensor(test.images), ms.Tensor(test.targets))
print(f"training {float(value):.5f}, test {float(final):.5f}")
