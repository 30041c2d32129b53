"""Networks that people train, each with the side of the images that it takes, in eval mode unless its name says else.

The weights are those of seed 10, or follow `steps` of Adam on an image folder.
"""

from collections.abc import Callable
from functools import partial
from itertools import cycle, islice, pairwise

import torch
import torch.nn.functional as F
import torchvision
from first_order import chain
from torch import Tensor, nn

from leakage_audit.data import ImageFolder
from leakage_audit.models import build

SEED = 10


class LeNet5(nn.Module):
    """Rectifiers, max pooling, 400-120-84-10."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Inputs `(B, 3, 32, 32)` to class scores `(B, 10)`."""
        for conv in (self.conv1, self.conv2):
            x = F.max_pool2d(conv(x).relu(), 2)
        return self.fc3(self.fc2(self.fc1(x.flatten(1)).relu()).relu())


def convnet(width: int = 16) -> nn.Module:
    """Six convolutions with batch normalisation, two poolings."""
    layers: list[nn.Module] = []
    widths = [3, width, 2 * width, 2 * width, 4 * width, 4 * width, 4 * width]
    for i, (one, two) in enumerate(pairwise(widths)):
        layers += [nn.Conv2d(one, two, 3, padding=1), nn.BatchNorm2d(two), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if i in (3, 5) else []
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * width * 64, 10))


class _Block(nn.Module):
    def __init__(self, one: int, two: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(one, two, 3, stride, 1, bias=False), nn.BatchNorm2d(two)
        self.conv2, self.norm2 = nn.Conv2d(two, two, 3, 1, 1, bias=False), nn.BatchNorm2d(two)
        self.short: nn.Module = nn.Identity()
        if stride > 1 or one != two:
            self.short = nn.Sequential(nn.Conv2d(one, two, 1, stride, bias=False), nn.BatchNorm2d(two))

    def forward(self, x: Tensor) -> Tensor:
        return (self.norm2(self.conv2(self.norm1(self.conv1(x)).relu())) + self.short(x)).relu()


def resnet(blocks: int = 1) -> nn.Module:
    """Stages of 16, 32 and 64 channels with so many blocks each (ResNet-8, -20), global average pooling."""
    layers = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    for one, two in pairwise((16, 16, 32, 64)):
        layers += [_Block(one, two, 1 + (one != two)), *(_Block(two, two) for _ in range(blocks - 1))]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def resnet18(small: bool = False) -> nn.Module:
    """torchvision's; with a 3 × 3 stem and without pooling behind it where `small`."""
    network = torchvision.models.resnet18(num_classes=10)
    if small:
        network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    return network


def vgg11() -> nn.Module:
    """The convolutions of torchvision's, and one fully connected layer, as people use it at 32 pixels."""
    return nn.Sequential(torchvision.models.vgg11().features, nn.Flatten(), nn.Linear(512, 10))


def vision_transformer(side: int = 32, patch: int = 4, width: int = 128, blocks: int = 4, heads: int = 4) -> nn.Module:
    """torchvision's, its head drawn: as it is initialised, at zero, nothing below has a gradient."""
    network = torchvision.models.VisionTransformer(
        image_size=side, patch_size=patch, num_layers=blocks, num_heads=heads, hidden_dim=width, mlp_dim=4 * width,
        num_classes=10,
    )  # fmt: skip
    nn.init.normal_(network.heads.head.weight, std=0.02)
    return network


def timm_network(name: str, **settings: int) -> nn.Module:
    """timm's, with ten classes."""
    import timm

    return timm.create_model(name, pretrained=False, num_classes=10, **settings)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "vit": (vision_transformer, 32),
    "timm_vit_tiny": (partial(timm_network, "vit_tiny_patch16_224", img_size=32, patch_size=4), 32),
    "vit_b16_two_blocks": (partial(vision_transformer, 224, 16, 768, 2, 12), 224),
    "vit_width48": (partial(vision_transformer, width=48), 32),
    "lenet": (LeNet5, 32),
    "convnet": (convnet, 32),
    "resnet8": (resnet, 32),
    "resnet8_train": (resnet, 32),
    "resnet20": (partial(resnet, 3), 32),
    "resnet18_cifar": (partial(resnet18, True), 32),
    "resnet18_64": (resnet18, 64),
    "resnet18_96": (resnet18, 96),
    "leaky_cnn3_v1": (lambda: chain(nn.LeakyReLU(0.2), 6, 3), 32),
    "vgg11": (vgg11, 32),
    "mobilenet_32": (partial(torchvision.models.mobilenet_v3_small, num_classes=10), 32),
    "mobilenet_64": (partial(torchvision.models.mobilenet_v3_small, num_classes=10), 64),
    **{name: (partial(build, name), 32) for name in ("cnn2_v1", "cnn2_v2", "cnn3_v1", "cnn3_v2", "cnn4_v1")},
}


def network(name: str, steps: int = 0, folder: str = "") -> nn.Module:
    """A network of the table, after `steps` of Adam (64 images, 1e-3) on the folder's images where there are any."""
    builder, side = NETWORKS[name]
    torch.manual_seed(SEED)
    found = builder()
    if steps:
        data = ImageFolder(folder, image_size=side, batch_size=64)
        data.setup("fit")
        adam = torch.optim.Adam(found.train().parameters(), 1e-3)
        for x, y in islice(cycle(data.train_dataloader()), steps):
            adam.zero_grad()
            F.cross_entropy(found(x), y).backward()
            adam.step()
    return found.train(name.endswith("_train"))
