"""A linear multi-label classifier of the digits, in PaddlePaddle."""

import paddle

import binxent.paddle as bx
from binxent.demo.digits import balance, load

train, test = load(seed=0)
images, targets = paddle.to_tensor(train.images), paddle.to_tensor(train.targets)
zeros = paddle.ParamAttr(initializer=paddle.nn.initializer.Constant(0.0))
model = paddle.nn.Linear(64, 13, weight_attr=zeros, bias_attr=zeros)
optimizer = paddle.optimizer.SGD(1.0, parameters=model.parameters())
loss = bx.BCEWithLogitsLoss(pos_weight=paddle.to_tensor(balance(train.targets)))

for _ in range(200):
    value = loss(model(images), targets)
    value.backward()
    optimizer.step()
    optimizer.clear_grad()

with paddle.no_grad():
    final = loss(model(paddle.to_tensor(test.images)), paddle.to_tensor(test.targets))
print(f"training {value.item():.5f}, test {final.item():.5f}")
