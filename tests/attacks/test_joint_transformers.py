"""Vision transformers: one image in closed form, and what is left to the prior where they are narrow."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from cases import draw
from torch import nn

from leakage_audit.attacks import DLG, CosineTV, Joint
from leakage_audit.equations.watched_recovery import watch_backwards
from leakage_audit.observation import observe
from leakage_audit.scores import score


class Logits(nn.Module):
    """A model that puts its scores out in an object."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).logits


class Rearranged(nn.Module):
    """Patches cut by hand, a linear embedding, positions by number, registers, mean pooling, no bias at the end."""

    def __init__(self):
        super().__init__()
        self.embed, self.pos, self.registers = nn.Linear(48, 32), nn.Embedding(16, 32), nn.Parameter(draw(1, 2, 32))
        layer = nn.TransformerEncoderLayer(32, 2, 64, 0.0, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(32, 5, bias=False)

    def forward(self, x):
        patches = F.unfold(x, 4, stride=4).transpose(1, 2)
        tokens = self.embed(patches) + self.pos(torch.arange(16))
        tokens = torch.cat([self.registers.expand(len(x), -1, -1), tokens], 1)
        return self.head(self.encoder(tokens)[:, 2:].mean(1))


def vision_transformer(width=32, depth=2):
    net = torchvision.models.VisionTransformer(16, 4, depth, 2, width, 2 * width, num_classes=5)
    nn.init.normal_(net.heads.head.weight, std=0.1)  # torchvision's own is zero, and nothing below has a gradient
    return net


def of_timm(**settings):
    timm = pytest.importorskip("timm")
    small = {"img_size": 16, "patch_size": 4, "embed_dim": 48, "depth": 1, "num_heads": 2, "num_classes": 5}
    return timm.models.VisionTransformer(**small | settings)


def of_transformers():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        image_size=16, patch_size=4, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        num_labels=5,
    )  # fmt: skip
    return Logits(transformers.ViTForImageClassification(config))


NETWORKS = {
    "torchvision": vision_transformer,
    "timm": of_timm,
    "timm, registers, mean pooling": lambda: of_timm(reg_tokens=2, no_embed_class=True, global_pool="avg"),
    "transformers": of_transformers,
    "by hand": Rearranged,
}


def see(net, dtype=torch.float32):
    torch.manual_seed(0)
    image = torch.rand(1, 3, 16, 16, dtype=dtype)
    return image, observe(net().to(dtype).eval(), image, 2, mean=0.5)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_image_is_read_off(name):
    image, seen = see(NETWORKS[name])
    found = Joint()(seen)
    assert found.converged
    assert found.details["rank"] == image.numel()
    assert float(score(found.images, image).psnr[0]) > 75
    wrong = (found.images - image).abs() / found.details["std"]
    assert float(wrong.square().mean().sqrt()) < 3


def test_in_double_precision_it_is_exact():
    image, seen = see(vision_transformer, torch.float64)
    assert float((Joint()(seen).images - image).abs().max()) < 1e-8


def test_what_a_narrow_one_leaves_open_is_found_by_its_other_gradients():
    torch.manual_seed(0)
    net = torchvision.models.VisionTransformer(8, 2, 1, 2, 12, 24, num_classes=5).double()  # 16 patches, width 12
    nn.init.normal_(net.heads.head.weight, std=0.1)
    image = F.interpolate(torch.rand(1, 3, 4, 4, dtype=torch.float64), size=8, mode="bicubic").clamp(0, 1)
    found = Joint(max_steps=8)(observe(net.eval(), image, 2, mean=0.5))
    assert found.details["rank"] > 12 * 12
    assert float(score(found.images, image).psnr[0]) > 28


def test_a_gradient_with_noise_is_not_taken_for_exact():
    _, seen = see(vision_transformer)
    for gradient in seen.gradients.values():
        gradient += 0.1 * gradient.square().mean().sqrt() * torch.randn_like(gradient)
    assert "conv_proj" not in [layer.name for layer in watch_backwards(seen.to(torch.float64), 1e-7)]


@pytest.mark.parametrize("attack", [CosineTV(iterations=2), DLG("scaled", iterations=1)], ids=["cosine_tv", "dlg"])
def test_fused_attention_stops_no_attack(attack):
    _, seen = see(vision_transformer)
    assert torch.isfinite(attack(seen).images).all()
