"""From values to modules: a genotype and a configuration enter, a few-shot network leaves.

Axes: n images, c channels, h height, w width, d features, k ways.
"""

from jaxtyping import Float
from torch import Tensor, nn

from metantk_core.candidates import Edge, Genotype, NamedNetwork, space_named
from metantk_core.networks.cells import DartsBody, NASBench201Body
from metantk_core.networks.config import NetworkConfig, Normalisation, Variant
from metantk_core.networks.conv4 import Conv4Body
from metantk_core.networks.normalisation import NORMALISATIONS
from metantk_core.networks.operations import OPERATIONS
from metantk_core.networks.resnet12 import ResNet12Body


class FewShotNetwork(nn.Module):
    """Images to logits: a body that makes feature maps, global average pooling or flattening, and a linear head.

    Args:
        body: Images ``[n c h w]`` to feature maps ``[n d h' w']``.
        features: Number ``d`` of features: channels of the feature maps, times their positions if they are flattened.
        ways: Number of classes of an episode.
        pooled: Whether features are means of the maps; else they are all their numbers.

    Attributes:
        images_first: All convolutions and linear layers see the images along their first axis, and no layer overwrites
            the result of a ReLU or of pooling.
    """

    images_first = True

    def __init__(self, body: nn.Module, features: int, ways: int, *, pooled: bool = True) -> None:
        super().__init__()
        self.body = body
        self.pooled = pooled
        self.head: nn.Module = nn.Linear(features, ways)

    def features(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Return what the head sees of images."""
        maps = self.body(x)
        return maps.mean(dim=(-2, -1)) if self.pooled else maps.flatten(1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        """Return the logits of images."""
        return self.head(self.features(x))


def restricted(network: FewShotNetwork, genotype: Genotype) -> FewShotNetwork:
    """Return the part of a supernet's network that a genotype keeps, with the supernet's own modules and weights.

    It computes exactly what a network built from the genotype computes with these weights: parameters have the same
    names in both. Making it costs next to nothing, so one initialised supernet serves many candidates.

    Args:
        network: What ``build`` made of a supernet.
        genotype: Some of the supernet's edges, with some of their operations.

    Raises:
        ValueError: If the supernet lacks an edge or an operation, or a computed node would have no input.
    """
    body = network.body
    assert isinstance(body, DartsBody | NASBench201Body)
    part = FewShotNetwork.__new__(FewShotNetwork)
    part.__dict__ = {**network.__dict__, "_modules": {**network._modules, "body": body.restricted(genotype)}}
    return part


def build(
    genotype: Genotype,
    config: NetworkConfig,
    *,
    in_channels: int,
    ways: int,
    variant: Variant,
    norm: Normalisation = "batch_support",
) -> FewShotNetwork:
    """Return the network of a candidate or of a supernet, whose edges give the mean of their operations.

    The weights come from torch's global generator; ``initialise`` gives them values that depend on a seed alone.

    The scoring variant always normalises per sample (GroupNorm), because a kernel needs samples that do not mix. For
    the DARTS family it also ends in normalisation and ReLU before the pooling, which the training variant does not, as
    in the published search (Wang et al. 2022). NAS-Bench-201 networks end in normalisation and ReLU in both variants.

    Args:
        genotype: What is on the edges.
        config: Width and depth.
        in_channels: Channels of the images.
        ways: Number of classes of an episode.
        variant: What the network is for.
        norm: Normalisation of the training variant.
    """
    make_norm = NORMALISATIONS["group" if variant == "scoring" else norm]
    operations = OPERATIONS[genotype.space]
    cells = _cells(genotype)
    if len(cells) == 1:
        body = NASBench201Body(
            *cells,
            in_channels=in_channels,
            channels=config.channels,
            cells=config.cells,
            operations=operations,
            norm=make_norm,
        )
    else:
        body = DartsBody(
            *cells,
            in_channels=in_channels,
            channels=config.channels,
            cells=config.cells,
            final_norm=variant == "scoring",
            operations=operations,
            norm=make_norm,
        )
    return FewShotNetwork(body, body.out_channels, ways)


def _cells(genotype: Genotype) -> tuple[tuple[Edge, ...], ...]:
    """Return the edges of each cell type: of one type, which stages repeat, or of normal and of reduction cells."""
    return tuple(genotype.cell(name) for name in space_named(genotype.space).cell_types)


def build_named(
    network: NamedNetwork, *, image_shape: tuple[int, int, int], ways: int, variant: Variant, norm: Normalisation
) -> FewShotNetwork:
    """Return a network that the field knows by name; weights as for :func:`build`.

    The features of 4-CONV are all numbers of its maps, as in MAML and in prototypical networks: 1,600 of 64 filters at
    84 pixels. Those of ResNet-12 are the 640 means of its maps. The scoring variant normalises per sample.

    Args:
        network: Which.
        image_shape: Channels, height and width of the images.
        ways: Number of classes of an episode.
        variant: What the network is for.
        norm: Normalisation of the training variant.

    Raises:
        InputError: The images are too small for it.
    """
    make_norm = NORMALISATIONS["group" if variant == "scoring" else norm]
    channels, size = image_shape[0], image_shape[1:]
    if network.name == "resnet12":
        body = ResNet12Body(channels, size, make_norm)
        return FewShotNetwork(body, body.out_channels, ways)
    body = Conv4Body(channels, int(network.name.removeprefix("conv4-")), size, make_norm)
    return FewShotNetwork(body, body.out_channels * body.num_positions, ways, pooled=False)


def build_thin(genotype: Genotype, *, ways: int) -> FewShotNetwork:
    """Return the thin network of a candidate or of a supernet that linear regions are counted on.

    Images of one channel enter the cells as they are, without a stem: for the DARTS family one normal cell of 1 channel
    and one reduction cell of 2 (Wang et al. 2022), for NAS-Bench-201 one cell in each of its stages, of 1, 2 and 4
    channels (TE-NAS, Chen et al. 2021). Normalisation and ReLU follow the last cell. All normalisation is by the
    moments of the batch, so the images of a batch belong together.

    Args:
        genotype: What is on the edges.
        ways: Outputs of the head.
    """
    operations, norm = OPERATIONS[genotype.space], NORMALISATIONS["batch_transductive"]
    cells = _cells(genotype)
    if len(cells) == 1:
        body = NASBench201Body(*cells, in_channels=1, channels=1, cells=1, operations=operations, norm=norm, stem=False)
    else:
        body = DartsBody(
            *cells,
            in_channels=1,
            channels=1,
            cells=2,
            final_norm=True,
            operations=operations,
            norm=norm,
            reductions=(1,),
            stem=False,
        )
    return FewShotNetwork(body, body.out_channels, ways)
