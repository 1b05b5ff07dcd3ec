"""Trains a linear classifier of handwritten digits with thirteen labels each, in PaddlePaddle.

The images come with scikit-learn: `pip install scikit-learn`.
"""

import paddle

import binxent.paddle as bx
from binxent.demo.digits import load
from binxent.labels import count_labels

train, test = load(seed=0)  # each has images, [N, 64] float32, and targets, [N, 13] bool
pos_weight = count_labels(train.targets).pos_weight()  # negatives / positives of each label: [13] float32
images, targets = paddle.to_tensor(train.images), paddle.to_tensor(train.targets)
zeros = paddle.ParamAttr(initializer=paddle.nn.initializer.Constant(0.0))
model = paddle.nn.Linear(64, 13, weight_attr=zeros, bias_attr=zeros)
optimizer = paddle.optimizer.SGD(1.0, parameters=model.parameters())
loss = bx.BCEWithLogitsLoss(pos_weight=paddle.to_tensor(pos_weight))

for _ in range(200):
    value = loss(model(images), targets)
    value.backward()
    optimizer.step()
    optimizer.clear_grad()

with paddle.no_grad():
    final = loss(model(paddle.to_tensor(test.images)), paddle.to_tensor(test.targets))
print(f"training {value.item():.5f}, test {final.item():.5f}")
