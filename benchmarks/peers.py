"""The networks of bt_jax in PyTorch, for comparison."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn


def conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
  """A convolution without bias, then batch norm."""
  return nn.Sequential(nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False), nn.BatchNorm2d(outputs))


def block(inputs: int, outputs: int) -> nn.Sequential:
  """Two times a 3 x 3 convolution, batch norm and ReLU."""
  return nn.Sequential(
    conv(inputs, outputs, 3), nn.ReLU(inplace=True), conv(outputs, outputs, 3), nn.ReLU(inplace=True)
  )


class Expand(nn.Module):
  """The decoder of a U-Net; the channels of its levels and of the skips are given finest first."""

  def __init__(self, inputs: int, skips: Sequence[int], features: Sequence[int]):
    super().__init__()
    self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in itertools.pairwise([*features, inputs]))
    self.join = nn.ModuleList(block(a + skip, a) for a, skip in zip(features, skips, strict=True))

  def forward(self, x: torch.Tensor, skips: Sequence[torch.Tensor | None]) -> torch.Tensor:
    for level in reversed(range(len(self.up))):
      x = self.up[level](x)
      x = self.join[level](x if skips[level] is None else torch.cat([skips[level], x], 1))
    return x


class UNet(nn.Module):
  """The U-Net."""

  def __init__(self, width: int, depth: int = 4):
    super().__init__()
    *features, bottom = [width * 2**level for level in range(depth + 1)]
    self.down = nn.ModuleList(itertools.starmap(block, itertools.pairwise([3, *features, bottom])))
    self.expand = Expand(bottom, features, features)
    self.head = nn.Conv2d(width, 1, 1)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    skips = []
    for level, layer in enumerate(self.down):
      x = layer(x if level == 0 else nn.functional.max_pool2d(x, 2))
      skips.append(x)
    return self.head(self.expand(x, skips[:-1]))


class Bottleneck(nn.Module):
  """1 x 1, 3 x 3 and 1 x 1 convolutions with a shortcut; the 3 x 3 convolution has the stride."""

  def __init__(self, inputs: int, features: int, stride: int):
    super().__init__()
    self.body = nn.Sequential(
      conv(inputs, features, 1),
      nn.ReLU(inplace=True),
      conv(features, features, 3, stride),
      nn.ReLU(inplace=True),
      conv(features, 4 * features, 1),
    )
    self.shortcut = nn.Identity() if inputs == 4 * features else conv(inputs, 4 * features, 1, stride)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return nn.functional.relu(self.body(x) + self.shortcut(x), inplace=True)


class ResNet50(nn.Module):
  """ResNet-50 v1.5 without a head; returns the outputs of the stem and the four stages."""

  def __init__(self):
    super().__init__()
    self.stem = nn.Sequential(conv(3, 64, 7, 2), nn.ReLU(inplace=True))
    self.stages = nn.ModuleList()
    inputs = 64
    for features, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
      outputs = 4 * features
      rest = [Bottleneck(outputs, features, 1) for _ in range(blocks - 1)]
      self.stages.append(nn.Sequential(Bottleneck(inputs, features, stride), *rest))
      inputs = outputs

  def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
    outputs = [self.stem(x)]
    x = nn.functional.max_pool2d(outputs[0], 3, 2, 1)
    for stage in self.stages:
      x = stage(x)
      outputs.append(x)
    return outputs


class ResNet50Classifier(nn.Module):
  """ResNet-50 with a linear head for two classes."""

  def __init__(self):
    super().__init__()
    self.encoder = ResNet50()
    self.head = nn.Linear(2048, 2)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return self.head(self.encoder(x)[-1].mean((2, 3)))


class ResUNet(nn.Module):
  """The decoder of a U-Net on ResNet-50, without a skip at full resolution."""

  def __init__(self):
    super().__init__()
    self.encoder = ResNet50()
    self.expand = Expand(2048, (0, 64, 256, 512, 1024), (16, 32, 64, 128, 256))
    self.head = nn.Conv2d(16, 1, 1)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    *skips, x = self.encoder(x)
    return self.head(self.expand(x, [None, *skips]))


class Depthwise(nn.Conv2d):
  """A depthwise convolution with TensorFlow's padding: with a stride, the larger half is at the bottom and right."""

  def __init__(self, features: int, size: int, stride: int):
    super().__init__(features, features, size, stride, 0 if stride > 1 else size // 2, groups=features, bias=False)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return super().forward(same(x, self.kernel_size[0]) if self.stride[0] > 1 else x)


def same(x: torch.Tensor, size: int) -> torch.Tensor:
  """Zero-pads an image of even height and width for a kernel of this size and a stride of 2."""
  return nn.functional.pad(x, ((size - 2) // 2, (size - 1) // 2) * 2)


class InvertedBottleneck(nn.Module):
  """A 1 x 1 expansion, a depthwise and a 1 x 1 projection convolution, with a shortcut if the shapes allow."""

  def __init__(self, inputs: int, features: int, size: int, stride: int, expand: int):
    super().__init__()
    wide = expand * inputs
    widen = [conv(inputs, wide, 1), nn.ReLU6(inplace=True)] if expand > 1 else []
    self.body = nn.Sequential(
      *widen, Depthwise(wide, size, stride), nn.BatchNorm2d(wide), nn.ReLU6(inplace=True), conv(wide, features, 1)
    )
    self.shortcut = stride == 1 and inputs == features

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return self.body(x) + x if self.shortcut else self.body(x)


class Lite0(nn.Module):
  """EfficientNet-Lite0 without a head; returns the features at the strides 2, 4, 8, 16 and 32."""

  def __init__(self):
    super().__init__()
    self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, bias=False), nn.BatchNorm2d(32), nn.ReLU6(inplace=True))
    self.stages = nn.ModuleList()
    inputs = 32
    for features, blocks, size, stride, expand in (
      (16, 1, 3, 1, 1), (24, 2, 3, 2, 6), (40, 2, 5, 2, 6), (80, 3, 3, 2, 6), (112, 3, 5, 1, 6), (192, 4, 5, 2, 6), (320, 1, 3, 1, 6),
    ):  # fmt: skip
      rest = [InvertedBottleneck(features, features, size, 1, expand) for _ in range(blocks - 1)]
      self.stages.append(nn.Sequential(InvertedBottleneck(inputs, features, size, stride, expand), *rest))
      inputs = features

  def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
    x = self.stem(same(x, 3))
    outputs = []
    for stage in self.stages:
      x = stage(x)
      outputs.append(x)
    return [outputs[index] for index in (0, 1, 2, 4, 6)]


class LiteUNet(nn.Module):
  """A decoder of nearest upsampling and double convolutions on EfficientNet-Lite0."""

  def __init__(self):
    super().__init__()
    self.encoder = Lite0()
    features, skips = (32, 48, 64, 128), (16, 24, 40, 112)
    self.join = nn.ModuleList(
      block(below + skip, own) for below, skip, own in zip((*features[1:], 320), skips, features, strict=True)
    )
    self.head = nn.Conv2d(features[0], 1, 3, padding=1)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    *skips, x = self.encoder(x)
    for level in reversed(range(len(skips))):
      x = self.join[level](torch.cat([nn.functional.interpolate(x, scale_factor=2), skips[level]], 1))
    return nn.functional.interpolate(self.head(x), scale_factor=2, mode="bilinear")


class LiteClassifier(nn.Module):
  """EfficientNet-Lite0 with its head for two classes."""

  def __init__(self):
    super().__init__()
    self.encoder = Lite0()
    self.head = nn.Sequential(conv(320, 1280, 1), nn.ReLU6(inplace=True))
    self.dense = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 2))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return self.dense(self.head(self.encoder(x)[-1]).mean((2, 3)))


PEERS = {
  "unet": UNet,
  "resunet": ResUNet,
  "resnet50": ResNet50Classifier,
  "lite_unet": LiteUNet,
  "lite": LiteClassifier,
}


def bce_dice(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
  """The sum of binary cross-entropy and soft Dice, pooled over the batch."""
  p = logits.sigmoid()
  dice = 1 - (2 * (p * masks).sum() + 1) / (p.sum() + masks.sum() + 1)
  return nn.functional.binary_cross_entropy_with_logits(logits, masks) + dice


def steps(
  name: str, width: int, images: np.ndarray, targets: np.ndarray, *, dtype: str
) -> dict[str, Callable[[], int | None] | None]:
  """Functions that run one step and wait for it and, on CUDA, one that returns the bytes of a training step.

  Args:
    name: one of `PEERS`.
    width: width of the U-Net.
    images: [batch, height, width, 3], float32.
    targets: masks [batch, height, width, 1], float32, or labels [batch].
    dtype: type of the computation, `float32` or `bfloat16`.
  """
  cuda = torch.cuda.is_available()
  device = "cuda" if cuda else "cpu"
  wait = torch.cuda.synchronize if cuda else lambda: None
  mixed = torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")
  x = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)  # which is channels last
  if targets.ndim == 1:
    y, loss, activation = torch.from_numpy(targets).to(device, torch.int64), nn.functional.cross_entropy, nn.Softmax(1)
  else:
    y, loss, activation = torch.from_numpy(targets).to(device).permute(0, 3, 1, 2), bce_dice, torch.sigmoid
  net = UNet(width) if name == "unet" else PEERS[name]()
  net.to(device, memory_format=torch.channels_last)
  if cuda:  # as XLA does: TF32 for float32, autotuned convolutions, fused kernels
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    net.compile()
  optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=1e-4)

  def train() -> None:
    if not net.training:
      net.train()
    with mixed:
      logits = net(x)
    optimizer.zero_grad()
    loss(logits.float(), y).backward()
    optimizer.step()
    wait()

  @torch.inference_mode()
  def predict() -> None:
    if net.training:
      net.eval()
    with mixed:
      logits = net(x)
    activation(logits.float())
    wait()

  def memory() -> int:
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    train()
    return torch.cuda.max_memory_allocated() - before

  return {"training": train, "inference": predict, "memory": memory if cuda else None}
