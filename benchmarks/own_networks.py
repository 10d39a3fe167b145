"""The kernel engine on networks of other people: architectures enter, a table of errors and of ratios of times leaves.

Run as ``python benchmarks/own_networks.py [--quick] [--batch-norm group|eval] [--json FILE]``. Each network
is scored as ``metantk score --model --batch-norm ...`` scores it: at the initialisation that its library gives it,
with GroupNorm in the place of batch normalisation or its running statistics, and dropout at rest. The other side is the
definition, as one writes it first: the gradients of one image after the other with ``torch.autograd.grad``, and their
inner products in float64. Errors are the largest difference from the loop's kernel in float64, over its largest entry:
of the engine in float64, of the engine in float32, and of the loop in float32, which is what float32 costs whoever
computes. Times are of one thread of a CPU in float32, medians of runs in turns.

Needs torchvision and timm, which the extras ``meta-training`` and ``test`` bring.

Axes: n images · c channels · h w pixels · p one parameter tensor, flattened.
"""

import argparse
import json
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from time import process_time
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metantk_core.kernels import parameter_names, tangent_and_last_layer_kernel
from metantk_core.networks import BATCH_NORM_TREATMENTS, BatchNormTreatment
from metantk_core.torchvision_import import torchvision_importable

IMAGES, SIZE, WAYS = 8, 32, 5
MOST_ERROR = 1e-5


def torchvision_models() -> ModuleType:
    """Return ``torchvision.models``."""
    with torchvision_importable():
        from torchvision import models
    return models


def timm(name: str, **settings: Any) -> nn.Module:
    """Return a network of timm."""
    with torchvision_importable(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import timm as library
    return library.create_model(name, num_classes=WAYS, **settings)


def torchvision(name: str, **settings: Any) -> nn.Module:
    """Return a classifier of torchvision."""
    return getattr(torchvision_models(), name)(num_classes=WAYS, **settings)


class Then(nn.Module):
    """A network and what is done with what it returns.

    Args:
        body: From images.
        then: Function of the body's result.
        head: The last layer.
    """

    def __init__(self, body: nn.Module, then: Callable[[Tensor], Tensor], head: nn.Module) -> None:
        super().__init__()
        self.body, self.then, self.head = body, then, head

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images."""
        return self.head(self.then(self.body(x)))


def pooled(x: Tensor) -> Tensor:
    """Return the mean of maps over their pixels."""
    return x.mean((2, 3))


def vgg() -> nn.Module:
    """Return the convolutions of VGG-11 under a head that fits small images: its own has 120 million parameters."""
    return Then(torchvision_models().vgg11().features, pooled, nn.Linear(512, WAYS))


def swin() -> nn.Module:
    """Return a Swin transformer for small images."""
    return torchvision_models().SwinTransformer(
        patch_size=[2, 2],
        embed_dim=24,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=[4, 4],
        num_classes=WAYS,
    )


def mixer() -> nn.Module:
    """Return an MLP-Mixer for small images."""
    with torchvision_importable():
        from timm.models.mlp_mixer import MlpMixer
    return MlpMixer(num_classes=WAYS, img_size=SIZE, patch_size=4, num_blocks=4, embed_dim=128)


class Rows(nn.Module):
    """A recurrent layer that reads an image row by row.

    Args:
        layer: Recurrent, with the batch along its first axis.
        width: Of what it returns.
    """

    def __init__(self, layer: nn.RNNBase, width: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images."""
        return self.head(self.layer(x.movedim(2, 1).flatten(2))[0].mean(1))


class ConvolutionThenCells(nn.Module):
    """Convolutions, and a recurrent cell that reads their maps pixel by pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 32, 5, 4, 2), nn.ReLU(True), nn.Conv2d(32, 48, 3, 2, 1), nn.ReLU(True))
        self.cell, self.head = nn.GRUCell(48, 64), nn.Linear(64, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images."""
        maps = self.body(x).flatten(2)
        state = maps.new_zeros(len(x), 64)
        for pixel in maps.unbind(2):
            state = self.cell(pixel, state)
        return self.head(state)


class Tokens(nn.Module):
    """Torch's transformer on patches, with a table of positions and a token for the class."""

    def __init__(self, *, first: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 64, 4, 4)
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, 64)), nn.Embedding(64, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, activation="gelu", batch_first=first)
        self.body = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.first, self.head = first, nn.Linear(64, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images."""
        tokens = self.patches(x).flatten(2).mT + self.positions.weight
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)
        if self.first:
            return self.head(self.body(tokens)[:, 0])
        return self.head(self.body(tokens.transpose(0, 1))[0])


class UNet(nn.Module):
    """Down and up again with transposed convolutions and concatenations, then a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([nn.Conv2d(3, 16, 3, 1, 1), nn.Conv2d(16, 32, 3, 2, 1), nn.Conv2d(32, 64, 3, 2, 1)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(64, 32, 2, 2), nn.ConvTranspose2d(64, 16, 2, 2)])
        self.head = nn.Linear(32, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images."""
        maps = []
        for layer in self.down:
            x = F.relu(layer(x), inplace=True)
            maps.append(x)
        for layer, beside in zip(self.up, reversed(maps[:-1]), strict=True):
            x = torch.cat([F.relu_(layer(x)), beside], 1)
        return self.head(pooled(x))


class SharedResidual(nn.Module):
    """One residual block that is used several times: the weights of a recurrent network of maps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 32, 3, 2, 1), nn.Linear(32, WAYS)
        self.block = nn.Sequential(nn.GroupNorm(8, 32), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images."""
        x = self.stem(x)
        for _ in range(4):
            x = x + self.block(x)
        return self.head(pooled(x))


class BilinearPooling(nn.Module):
    """Two streams of convolutions, joined by a bilinear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.streams = nn.ModuleList(nn.Sequential(nn.Conv2d(3, 24, size, 2), nn.SiLU(True)) for size in (3, 5))
        self.head = nn.Bilinear(24, 24, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images."""
        left, right = (pooled(stream(x)) for stream in self.streams)
        return self.head(left, right)


@dataclass(frozen=True)
class Case:
    """A network.

    Attributes:
        library: Where it is from.
        kind: What it is made of.
        make: Returns it.
        quick: Whether it belongs to the short table.
    """

    library: str
    kind: str
    make: Callable[[], nn.Module]
    quick: bool = False


CASES: dict[str, Case] = {
    "VGG-11": Case("torchvision", "convolutional, in place", vgg),
    "SqueezeNet 1.1": Case("torchvision", "convolutional, in place", lambda: torchvision("squeezenet1_1"), True),
    "GoogLeNet": Case(
        "torchvision", "branches", lambda: torchvision("googlenet", aux_logits=False, init_weights=False)
    ),
    "ResNet-18": Case("torchvision", "residual", lambda: torchvision("resnet18")),
    "RegNetY-400MF": Case("torchvision", "residual, grouped", lambda: torchvision("regnet_y_400mf")),
    "DenseNet-121": Case("torchvision", "dense", lambda: torchvision("densenet121")),
    "ShuffleNet v2 × 0.5": Case("torchvision", "shuffled groups", lambda: torchvision("shufflenet_v2_x0_5"), True),
    "MNASNet 0.5": Case("torchvision", "inverted residual", lambda: torchvision("mnasnet0_5")),
    "MobileNet v2": Case("torchvision", "inverted residual", lambda: torchvision("mobilenet_v2")),
    "MobileNet v3 small": Case("torchvision", "inverted residual", lambda: torchvision("mobilenet_v3_small"), True),
    "Swin, small": Case("torchvision", "attention in windows", swin),
    "EfficientNet-B0": Case("timm", "inverted residual", lambda: timm("efficientnet_b0")),
    "GhostNet": Case("timm", "inverted residual", lambda: timm("ghostnet_100")),
    "LCNet 0.5": Case("timm", "depthwise", lambda: timm("lcnet_050"), True),
    "RepVGG-A0": Case("timm", "convolutional, branches", lambda: timm("repvgg_a0")),
    "ConvNeXt atto": Case("timm", "residual, depthwise", lambda: timm("convnext_atto")),
    "ViT tiny": Case(
        "timm", "attention", lambda: timm("vit_tiny_patch16_224", img_size=SIZE, patch_size=8, depth=6), True
    ),
    "XCiT nano": Case("timm", "attention of channels", lambda: timm("xcit_nano_12_p16_224", img_size=SIZE)),
    "LeViT-128S": Case("timm", "attention, convolutional", lambda: timm("levit_128s", img_size=SIZE)),
    "MobileViT XXS": Case("timm", "attention, convolutional", lambda: timm("mobilevit_xxs")),
    "MLP-Mixer": Case(
        "timm", "perceptrons", mixer
    ),
    "PoolFormer": Case("timm", "pooling", lambda: timm("poolformerv2_s12")),
    "Transformer, images first": Case("torch.nn", "attention", lambda: Tokens(first=True), True),
    "Transformer, images second": Case("torch.nn", "attention", lambda: Tokens(first=False)),
    "LSTM over rows": Case(
        "torch.nn", "recurrent", lambda: Rows(nn.LSTM(96, 64, 2, batch_first=True), 64), True
    ),
    "GRU over rows, both ways": Case(
        "torch.nn", "recurrent", lambda: Rows(nn.GRU(96, 48, batch_first=True, bidirectional=True), 96)
    ),
    "Convolutions and GRU cell": Case("own", "convolutional, recurrent", ConvolutionThenCells, True),
    "U-Net": Case("own", "transposed convolutions", UNet, True),
    "Shared residual block": Case("own", "residual, shared weights", SharedResidual),
    "Bilinear pooling": Case("own", "convolutional, bilinear", BilinearPooling),
}  # fmt: skip


def network_of(name: str, batch_norm: BatchNormTreatment = "group") -> nn.Module:
    """Return a network as it is scored, in float32."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = BATCH_NORM_TREATMENTS[batch_norm](CASES[name].make())
    # LeViT at rest keeps a part of one pass's graph for the next one; it has no dropout.
    return network if name == "LeViT-128S" else network.eval()


def images_of(dtype: torch.dtype) -> Tensor:
    """Return white noise in the shape of a batch."""
    return torch.randn(IMAGES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)).to(dtype)


def engine(network: nn.Module, images: Tensor) -> Tensor:
    """Return the kernel."""
    return tangent_and_last_layer_kernel(network, images).ntk


def loop(network: nn.Module, images: Tensor) -> Tensor:
    """Return the kernel by its definition."""
    weights = [network.get_parameter(name) for name in parameter_names(network, "weights")]
    # With running statistics, torch 2.13 gets gradients of one single image wrong where layouts change on the way.
    copies = 2 if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()) else 1
    gradients = [
        torch.autograd.grad(
            network(image.expand(copies, -1, -1, -1))[0].sum(), weights, allow_unused=True, materialize_grads=True
        )
        for image in images
    ]
    kernel = torch.zeros(len(images), len(images), dtype=torch.float64)
    for of_one in zip(*gradients, strict=True):
        rows = torch.stack([gradient.flatten() for gradient in of_one]).double()
        kernel += rows @ rows.mT
    return kernel


def error(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference over the largest entry."""
    return float((found - expected).abs().max() / expected.abs().max())


def measure(name: str, batch_norm: BatchNormTreatment, repeats: int) -> dict[str, float]:
    """Return the errors and the times of one network."""
    network = network_of(name, batch_norm)
    images = images_of(torch.float32)
    found = {"engine": engine(network, images), "loop": loop(network, images)}
    times: dict[str, list[float]] = {"engine": [], "loop": []}
    for _ in range(repeats):
        for way, work in (("engine", engine), ("loop", loop)):
            start = process_time()
            work(network, images)
            times[way].append(process_time() - start)
    network, images = network.double(), images_of(torch.float64)
    exact = loop(network, images)
    names = parameter_names(network, "weights")
    return {
        "counted": len(names),
        "numbers": sum(network.get_parameter(key).numel() for key in names),
        "engine_float64": error(engine(network, images), exact),
        "engine_float32": error(found["engine"], exact),
        "loop_float32": error(found["loop"], exact),
        "engine_seconds": statistics.median(times["engine"]),
        "loop_seconds": statistics.median(times["loop"]),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small networks only, under a minute")
    parser.add_argument("--batch-norm", choices=list(BATCH_NORM_TREATMENTS), default="group")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    parser.add_argument("--only", action="append", choices=list(CASES), metavar="NAME", help="only this; repeatable")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    names = given.only or [name for name, case in CASES.items() if case.quick or not given.quick]
    print(f"torch {torch.__version__}, {IMAGES} images of {SIZE} x {SIZE}, medians of {given.repeats}")
    print(
        "| network | library | kind | weights that count | engine, float64 | engine, float32 | loop, float32 | engine "
        "| loop ÷ engine |\n|---|---|---|---|---|---|---|---|---|"
    )
    results = {}
    for name in names:
        results[name] = found = measure(name, given.batch_norm, given.repeats)
        cells = (
            name,
            CASES[name].library,
            CASES[name].kind,
            f"{found['counted']}, {found['numbers'] / 1e6:.2f} M",
            *(f"{found[key]:.0e}" for key in ("engine_float64", "engine_float32", "loop_float32")),
            f"{found['engine_seconds']:.2f} s",
            f"{found['loop_seconds'] / found['engine_seconds']:.1f}",
        )
        print("| " + " | ".join(cells) + " |", flush=True)
    worst = max(found["engine_float64"] for found in results.values())
    close = {
        way: sum(found[f"{way}_float32"] <= MOST_ERROR for found in results.values()) for way in ("engine", "loop")
    }
    ratios = [found["loop_seconds"] / found["engine_seconds"] for found in results.values()]
    print(
        f"\n{len(results)} networks. Largest error in float64: {worst:.0e} "
        f"(≤ {MOST_ERROR:.0e}: {'yes' if worst <= MOST_ERROR else 'NO'}); within that in float32: {close['engine']} "
        f"from the engine, {close['loop']} from the loop. Loop ÷ engine: {min(ratios):.1f} to {max(ratios):.1f}, "
        f"median {statistics.median(ratios):.1f}."
    )
    if given.json:
        with open(given.json, "w") as file:
            json.dump({"torch": torch.__version__, "batch_norm": given.batch_norm, "networks": results}, file, indent=2)


if __name__ == "__main__":
    main()
