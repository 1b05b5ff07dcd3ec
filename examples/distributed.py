"""Trains the classifier of train_torch.py on several processes, whose shares of the data differ in size.

    torchrun --nproc-per-node 2 examples/distributed.py

DistributedDataParallel averages the gradients of the ranks. A mean over each rank's own rows would therefore count the
rows of a small share more than those of a large one. With `process_group=` the loss divides by what all ranks count.
What is printed is then what one process prints that has all the rows.
"""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import binxent.torch as bx
from binxent.demo.digits import load
from binxent.labels import count_labels

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

train, test = load(seed=0)  # each has images, [N, 64] float32, and targets, [N, 13] bool
pos_weight = torch.from_numpy(count_labels(train.targets).pos_weight())  # of all rows, the same on every rank
rows = torch.arange(len(train.images))
own = rows[rows % (world + 1) % world == rank]  # rank 0 has twice as many as the others
images, targets = torch.from_numpy(train.images)[own], torch.from_numpy(train.targets)[own]

model = torch.nn.Linear(64, 13)
torch.nn.init.zeros_(model.weight)
torch.nn.init.zeros_(model.bias)
parallel = DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
loss = bx.BCEWithLogitsLoss(pos_weight=pos_weight, process_group=dist.group.WORLD, gradients="averaged")

for _ in range(200):
    optimizer.zero_grad()
    value = loss(parallel(images), targets)
    value.backward()
    optimizer.step()

# A rank's loss is made for averaged gradients: the mean over all rows is the average of the ranks' losses.
shown = value.detach() / world
dist.all_reduce(shown)
with torch.no_grad():
    scores = model(torch.from_numpy(test.images))
    final = bx.binary_cross_entropy_with_logits(scores, torch.from_numpy(test.targets), pos_weight=pos_weight)
if rank == 0:
    print(f"training {shown.item():.5f}, test {final.item():.5f}")
dist.destroy_process_group()
