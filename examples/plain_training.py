"""Somebody's plain PyTorch training, fed by imagesprint: python examples/plain_training.py ROOT"""

import sys

import torch
from torch import nn

import imagesprint

spec = imagesprint.BatchSpec(image_size=64, batch_size=32, epochs=2, source="160")
loader = imagesprint.Loader(sys.argv[1], spec)
model = nn.Sequential(nn.Conv2d(3, 16, 5, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.LazyLinear(1000))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

for batch in loader:  # batch.images: uint8 [32, 64, 64, 3], RGB; batch.labels: int64 [32]
    images = batch.images.permute(0, 3, 1, 2).float() / 255
    loss = nn.functional.cross_entropy(model(images), batch.labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {batch.step}: loss {loss.item():.3f}")
