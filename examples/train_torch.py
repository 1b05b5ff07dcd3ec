"""Trains a linear classifier of handwritten digits with thirteen labels each, in PyTorch.

The images come with scikit-learn: `pip install scikit-learn`.
"""

import torch

import binxent.torch as bx
from binxent.demo.digits import load
from binxent.labels import count_labels

train, test = load(seed=0)  # each has images, [N, 64] float32, and targets, [N, 13] bool
pos_weight = count_labels(train.targets).pos_weight()  # negatives / positives of each label: [13] float32
images, targets = torch.from_numpy(train.images), torch.from_numpy(train.targets)
model = torch.nn.Linear(64, 13)
torch.nn.init.zeros_(model.weight)
torch.nn.init.zeros_(model.bias)
optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
loss = bx.BCEWithLogitsLoss(pos_weight=torch.from_numpy(pos_weight))

for _ in range(200):
    optimizer.zero_grad()
    value = loss(model(images), targets)
    value.backward()
    optimizer.step()

with torch.no_grad():
    final = loss(model(torch.from_numpy(test.images)), torch.from_numpy(test.targets))
print(f"training {value.item():.5f}, test {final.item():.5f}")
