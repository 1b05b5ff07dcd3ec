"""A linear multi-label classifier of the digits, in PyTorch."""

import torch

import binxent.torch as bx
from binxent.demo.digits import balance, load

train, test = load(seed=0)
images, targets = torch.from_numpy(train.images), torch.from_numpy(train.targets)
model = torch.nn.Linear(64, 13)
torch.nn.init.zeros_(model.weight)
torch.nn.init.zeros_(model.bias)
optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
loss = bx.BCEWithLogitsLoss(pos_weight=torch.from_numpy(balance(train.targets)))

for _ in range(200):
    optimizer.zero_grad()
    value = loss(model(images), targets)
    value.backward()
    optimizer.step()

with torch.no_grad():
    final = loss(model(torch.from_numpy(test.images)), torch.from_numpy(test.targets))
print(f"training {value.item():.5f}, test {final.item():.5f}")
