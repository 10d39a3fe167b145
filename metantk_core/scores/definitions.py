"""Which scores there are: a name enters, what the score means and which direction is better leave."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

Direction = Literal["higher", "lower"]
Scale = Literal["linear", "log10"]
Algorithm = Literal["maml", "anil"]
Cost = Literal["pass", "forward", "backward", "own pass", "none"]
Sees = Literal["images", "shape", "channels"]

_WEIGHTS = ("network", "initialisation", "redraw")
_EPISODES = ("episode", "tasks", "image_size", "augmentation", "normalisation")
_READS: Mapping[Cost, tuple[str, ...]] = MappingProxyType(
    {
        "pass": (*_WEIGHTS, *_EPISODES, "parameters", "outputs"),
        "forward": (*_WEIGHTS, *_EPISODES),
        "backward": (*_WEIGHTS, *_EPISODES),
        "own pass": (*_WEIGHTS, *_EPISODES),
        "none": ("episode.ways",),
    }
)


@dataclass(frozen=True)
class InnerLoop:
    """The inner loop of a MetaNTK; what is None is taken from the scoring configuration.

    Attributes:
        algorithm: All parameters adapt (maml) or the head alone (anil).
        time: Inner learning rate times inner steps; may be infinite.
        ridge: Regularisation λ.
    """

    algorithm: Algorithm | None = None
    time: float | None = None
    ridge: float | None = None

    def __str__(self) -> str:
        parts = [
            self.algorithm and self.algorithm.upper(),
            None if self.time is None else f"τ = {'∞' if math.isinf(self.time) else f'{self.time:g}'}",
            None if self.ridge is None else f"λ = {self.ridge:g}",
        ]
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class ScoreDefinition:
    """What people and rankings need to know about a score.

    Attributes:
        name: Key in ``SCORES``, in configurations and in records.
        direction: Which values are better.
        scale: Scale on which draws are averaged and compared: heavy-tailed scores are averaged over their logarithms.
            Records hold raw values.
        label: Name for people.
        meaning: Definition in words, for people.
        source: Where the definition comes from.
        cost: ``"pass"``: comes from the one per-image-gradient pass of each initialisation, so several such scores cost
            no more than one; ``"forward"``: one forward without gradients of the same images; ``"backward"``: the one
            backward of a loss, shared by several; ``"own pass"``: a pass that nothing shares; ``"none"``: counted, does
            not depend on weights or images.
        tasks: Fewest episodes that it can be computed from.
        inner_loop: The inner loop that the name asks for; None for scores that have none.
        revision: Raised whenever the definition, or what it counts as a failure, changes a value: records of another
            revision are never served.
        own_reads: The settings that reach the score, if they are not those of its cost; see :attr:`reads`.
        spaces_alone: Why it can't be had for a network of a person's own; empty if it can.
        sees: What reaches it of a dataset: its images, their shape, or the number of their channels alone.
    """

    name: str
    direction: Direction
    scale: Scale
    label: str
    meaning: str
    source: str
    cost: Cost
    tasks: int = 1
    inner_loop: InnerLoop | None = None
    revision: int = 1
    own_reads: tuple[str, ...] | None = None
    sees: Sees = "images"
    spaces_alone: str = ""

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields of ``ScoringConfig`` that reach the score, beside those of its inner loop; no other changes a value.

        A field of a field is written with a dot. Records are kept under these settings alone, so a field that is
        missing here lets the store serve wrong values; a test changes every field and compares.
        """
        return _READS[self.cost] if self.own_reads is None else self.own_reads

    @property
    def scaled_label(self) -> str:
        """The label of an average, which says on which scale it was taken."""
        return self.label if self.scale == "linear" else f"{self.scale} {self.label}"


_NUMBER = r"\d+(?:\.\d+)?(?:e[+-]?\d+)?"
_VARIANT = re.compile(
    rf"(?P<base>\w+?)(?:_(?P<algorithm>maml|anil))?(?:_time(?P<time>inf|{_NUMBER}))?(?:_ridge(?P<ridge>{_NUMBER}))?"
)


class ScoreTable(Mapping[str, ScoreDefinition]):
    """Every score by name.

    Scores of the MetaNTK can be had for several inner loops at once: ``_maml`` or ``_anil``, ``_time`` and ``_ridge``
    after the name, in this order, replace what the configuration says, as in ``metantk_cond_anil``,
    ``metantk_cond_maml_time1`` or ``metantk_regression_loss_anil_timeinf_ridge1e-5``. Looking up understands these
    names; iterating goes through the plain ones.

    Args:
        definitions: The scores under their plain names.
    """

    def __init__(self, *definitions: ScoreDefinition) -> None:
        self._plain = {definition.name: definition for definition in definitions}

    def __getitem__(self, name: str) -> ScoreDefinition:
        if name in self._plain:
            return self._plain[name]
        parts = _VARIANT.fullmatch(name)
        base = self._plain.get(parts["base"]) if parts else None
        if parts is None or base is None or base.inner_loop is None:
            raise KeyError(name)
        loop = InnerLoop(
            algorithm=parts["algorithm"],  # type: ignore[arg-type] - the expression allows no other
            time=None if parts["time"] is None else float(parts["time"]),
            ridge=None if parts["ridge"] is None else float(parts["ridge"]),
        )
        if loop.ridge is not None and math.isinf(loop.ridge):
            raise KeyError(name)
        return replace(base, name=name, label=f"{base.label} ({loop})", inner_loop=loop)

    def plain_name(self, name: str) -> str:
        """Return the name without an inner loop."""
        if name in self._plain:
            return name
        parts = _VARIANT.fullmatch(name)
        if parts is None or name not in self:
            raise KeyError(name)
        return parts["base"]

    def __iter__(self) -> Iterator[str]:
        return iter(self._plain)

    def __len__(self) -> int:
        return len(self._plain)


SCORES = ScoreTable(
    ScoreDefinition(
        "metantk_cond",
        "lower",
        "log10",
        "MetaNTK condition number",
        "Condition number λmax/λmin of the MetaNTK Φ at random initialisation: how unevenly meta-training learns the "
        "directions of the tasks. Averaged over log10.",
        "Wang, Wang, Sun, Li, CVPR 2022, Theorem 1 and Section 4",
        "pass",
        revision=2,
        inner_loop=InnerLoop(),
    ),
    ScoreDefinition(
        "ntk_cond",
        "lower",
        "log10",
        "NTK condition number",
        "Condition number λmax/λmin of the neural tangent kernel Θ at random initialisation: how unevenly plain "
        "training learns. Averaged over log10.",
        "Chen, Gong, Wang, ICLR 2021 (TE-NAS)",
        "pass",
        revision=2,
    ),
    ScoreDefinition(
        "ntk_trace",
        "higher",
        "log10",
        "NTK trace",
        "Trace of the neural tangent kernel Θ: how fast plain training moves the outputs. Averaged over log10.",
        "Shu et al., ICLR 2022 (NASI)",
        "pass",
        revision=2,
    ),
    ScoreDefinition(
        "ntk_frobenius",
        "higher",
        "log10",
        "NTK Frobenius norm",
        "Frobenius norm of the neural tangent kernel Θ. Averaged over log10.",
        "This project; not what the code of Xu et al., ICML 2021 (KNAS) computes",
        "pass",
        revision=2,
    ),
    ScoreDefinition(
        "spectral_entropy",
        "higher",
        "linear",
        "NTK spectral entropy",
        "Entropy, in nats, of the eigenvalues of the neural tangent kernel Θ divided by their sum: log n if it treats "
        "n images as equally different, 0 if it can't tell them apart.",
        "Kang et al., ICML 2025 (IBFS), equations 9 and 10",
        "pass",
        revision=2,
    ),
    ScoreDefinition(
        "label_gradient_alignment",
        "higher",
        "linear",
        "label–gradient alignment",
        "Correlation of the entries of the neural tangent kernel Θ with those of L, which is +1 for two images of the "
        "same class and -1 for others.",
        "Mok et al., CVPR 2022 (LGA)",
        "pass",
        revision=2,
    ),
    ScoreDefinition(
        "kernel_target_alignment",
        "higher",
        "linear",
        "kernel–target alignment",
        "Cosine ⟨Θ, L⟩ / (‖Θ‖ ‖L‖) of the neural tangent kernel Θ and L, which is +1 for two images of the same class "
        "and -1 for others.",
        "Cristianini et al., NIPS 2001",
        "pass",
        revision=2,
    ),
    ScoreDefinition(
        "metantk_logdet",
        "lower",
        "linear",
        "MetaNTK log-determinant ratio",
        "Logarithm of the arithmetic over the geometric mean of the eigenvalues of the MetaNTK Φ, in nats: 0 if "
        "meta-training learns all directions alike. The meaning of the condition number, from the whole spectrum.",
        "This project; the statistic is that of Mauchly 1940 (sphericity)",
        "pass",
        revision=2,
        inner_loop=InnerLoop(),
    ),
    ScoreDefinition(
        "metantk_trace_ratio",
        "lower",
        "log10",
        "MetaNTK trace ratio",
        "tr Φ · tr Φ⁻¹ / m², the arithmetic over the harmonic mean of the eigenvalues of the MetaNTK Φ: 1 if "
        "meta-training learns all directions alike. Averaged over log10.",
        "This project",
        "pass",
        revision=2,
        inner_loop=InnerLoop(),
    ),
    ScoreDefinition(
        "metantk_spectral_entropy",
        "higher",
        "linear",
        "MetaNTK spectral entropy",
        "Entropy, in nats, of the eigenvalues of the MetaNTK Φ divided by their sum: log m if meta-training learns all "
        "m directions alike. Its exponential is the effective rank.",
        "This project; the effective rank is that of Roy & Vetterli, EUSIPCO 2007",
        "pass",
        revision=2,
        inner_loop=InnerLoop(),
    ),
    ScoreDefinition(
        "metantk_regression_accuracy",
        "higher",
        "linear",
        "MetaNTK regression accuracy",
        "Share of query images that kernel regression with the MetaNTK classifies correctly on an episode, after "
        "learning from the others of its batch; each episode is left out once.",
        "This project; the predictor is that of Wang, Wang, Sun, Li, CVPR 2022, Theorem 1",
        "pass",
        revision=2,
        tasks=2,
        inner_loop=InnerLoop(),
    ),
    ScoreDefinition(
        "metantk_regression_loss",
        "lower",
        "log10",
        "MetaNTK regression loss",
        "Squared error of the same regression, summed over classes (targets are one-hot minus 1/ways), mean over query "
        "images; predicting nothing gives 1 - 1/ways. Averaged over log10.",
        "This project; the predictor is that of Wang, Wang, Sun, Li, CVPR 2022, Theorem 1",
        "pass",
        revision=2,
        tasks=2,
        inner_loop=InnerLoop(),
    ),
    ScoreDefinition(
        "naswot",
        "higher",
        "linear",
        "NASWOT",
        "Log-determinant of the kernel that counts on how many ReLUs two images agree: large if images have different "
        "activation codes.",
        "Mellor et al., ICML 2021",
        "forward",
    ),
    ScoreDefinition(
        "grad_norm",
        "higher",
        "log10",
        "gradient norm",
        "Sum over layers of the Euclidean norm of the loss gradient by the layer's weights. Averaged over log10.",
        "Abdelfattah et al., ICLR 2021",
        "backward",
        revision=2,
    ),
    ScoreDefinition(
        "snip",
        "higher",
        "log10",
        "SNIP",
        "Sum over weights of |∂L/∂W ⊙ W|: how much the loss changes if single weights go. Averaged over log10.",
        "Lee et al., ICLR 2019; as a score: Abdelfattah et al., ICLR 2021",
        "backward",
        revision=2,
    ),
    ScoreDefinition(
        "plain",
        "higher",
        "linear",
        "plain",
        "Sum over weights of ∂L/∂W ⊙ W, with sign. Layers that a normalisation follows contribute nothing.",
        "Abdelfattah et al., ICLR 2021",
        "backward",
        revision=2,
    ),
    ScoreDefinition(
        "fisher",
        "higher",
        "log10",
        "Fisher",
        "Sum over channels of ½ mean over images of (Σ a ⊙ ∂L/∂a)², a being the outputs of convolutions and linear "
        "layers; each channel counts once. Averaged over log10.",
        "Theis et al. 2018; Turner et al., ICLR 2020",
        "backward",
        revision=2,
    ),
    ScoreDefinition(
        "fisher_fan_in",
        "higher",
        "log10",
        "Fisher × fan-in",
        "The sum of fisher with each channel counted once for each of its weights, that is, times the layer's fan-in "
        "(input channels / groups × kernel height × width). Averaged over log10.",
        "Abdelfattah et al., ICLR 2021, as their code (zero-cost-nas) computes it",
        "backward",
        revision=2,
    ),
    ScoreDefinition(
        "zico",
        "higher",
        "linear",
        "ZiCo",
        "Sum over layers of the logarithm of Σ mean|g| / std(g), over the gradients g of the episodes.",
        "Li et al., ICLR 2023",
        "backward",
        tasks=2,
        revision=2,
    ),
    ScoreDefinition(
        "synflow",
        "higher",
        "linear",
        "log SynFlow",
        "Logarithm of Σ |W ⊙ ∂R/∂W|, R being the sum of the outputs for an image of ones, with absolute weights and "
        "without normalisation. Looks at no image.",
        "Tanaka et al., NeurIPS 2020; as a score: Abdelfattah et al., ICLR 2021",
        "own pass",
        own_reads=(*_WEIGHTS, "image_size", "episode.ways"),
        sees="channels",
    ),
    ScoreDefinition(
        "linear_regions",
        "higher",
        "linear",
        "linear regions",
        "Number of different ReLU sign patterns among 3 × 3 patches of training images, of one thin cell of each kind.",
        "Xiong et al., ICML 2020; Chen, Gong, Wang, ICLR 2021 (TE-NAS)",
        "own pass",
        revision=2,
        own_reads=("linear_regions", "network.cells", "initialisation", "redraw"),
        spaces_alone="it is counted on thin cells of a search space",
    ),
    ScoreDefinition(
        "synflow_bn",
        "higher",
        "linear",
        "log SynFlow with normalisation",
        "Logarithm of Σ |W ⊙ ∂R/∂W|, R being the sum of the outputs for an image of ones, with absolute parameters and "
        "batch normalisation of this one image. Looks at no image.",
        "Abdelfattah et al., ICLR 2021, as their code (zero-cost-nas) computes it; the logarithm is ours",
        "own pass",
        own_reads=(*_WEIGHTS, "image_size", "episode.ways"),
        sees="channels",
    ),
    ScoreDefinition(
        "l2_norm",
        "higher",
        "linear",
        "norm of weights",
        "Sum over layers of the Euclidean norm of the layer's weights: all but a count. Looks at no image.",
        "Abdelfattah et al., ICLR 2021, as their code (zero-cost-nas) and NASLib compute it",
        "own pass",
        own_reads=(*_WEIGHTS, "episode.ways"),
        sees="channels",
    ),
    ScoreDefinition(
        "grasp",
        "higher",
        "linear",
        "GraSP",
        "−Σ W ⊙ (H g), with sign: g and H are gradient and Hessian of the loss. Weights that a normalisation follows "
        "contribute the squared length of their gradient.",
        "Wang, Zhang, Grosse, ICLR 2020; as a score: Abdelfattah et al., ICLR 2021",
        "own pass",
        revision=2,
    ),
    ScoreDefinition(
        "gradsign",
        "higher",
        "linear",
        "GradSign",
        "Sum over weights of |Σ sign(∂ℓ/∂W)|, summed over images: how far images agree on where each weight should go.",
        "Zhang & Jia, ICLR 2022, algorithm 1",
        "own pass",
    ),
    ScoreDefinition(
        "jacob_cov",
        "higher",
        "linear",
        "Jacobian covariance",
        "−Σ log(σ + k) + 1/(σ + k), k = 10⁻⁵, over the eigenvalues σ of the correlations between images of the "
        "gradients of all logits by the pixels; with batch normalisation.",
        "Mellor et al. 2020 (arXiv:2006.04647v1); Abdelfattah et al., ICLR 2021",
        "own pass",
    ),
    ScoreDefinition(
        "epe_nas",
        "higher",
        "linear",
        "EPE-NAS",
        "Sum over classes of |Σ log(|ρ| + k)|, k = 10⁻⁵, ρ being the same correlations between the images of one "
        "class; with batch normalisation.",
        "Lopes, Alirezazadeh, Alexandre, ICANN 2021",
        "own pass",
    ),
    ScoreDefinition(
        "zen",
        "higher",
        "linear",
        "Zen-NAS",
        "log E ‖f(x) − f(x + 0.01 ε)‖ + Σ log σ, f being the last feature maps, x and ε noise and σ what each batch "
        "normalisation divides by; weights from N(0, 1). Looks at no image.",
        "Lin et al., ICCV 2021, algorithm 1",
        "own pass",
        own_reads=("network", "image_size"),
        sees="channels",
    ),
    ScoreDefinition(
        "az_expressivity",
        "higher",
        "linear",
        "AZ-NAS expressivity",
        "Sum over stages (stem, cells, reductions) of the entropy of the spectrum of their features' covariance, in "
        "nats; noise as input, with batch normalisation. Looks at no image.",
        "Lee & Ham, CVPR 2024",
        "own pass",
        own_reads=(*_WEIGHTS, "image_size"),
        sees="channels",
    ),
    ScoreDefinition(
        "az_progressivity",
        "higher",
        "linear",
        "AZ-NAS progressivity",
        "Least growth of that entropy from a stage to the next. Looks at no image.",
        "Lee & Ham, CVPR 2024",
        "own pass",
        own_reads=(*_WEIGHTS, "image_size"),
        sees="channels",
    ),
    ScoreDefinition(
        "az_trainability",
        "higher",
        "linear",
        "AZ-NAS trainability",
        "Mean over stages of 2 − σ − 1/σ, σ being the spectral norm of the stage's Jacobian, estimated from gradients "
        "of random signs: 0 if gradients keep their size. Looks at no image.",
        "Lee & Ham, CVPR 2024",
        "own pass",
        own_reads=(*_WEIGHTS, "image_size"),
        sees="channels",
    ),
    ScoreDefinition(
        "swap",
        "higher",
        "linear",
        "SWAP",
        "Number of different patterns of single ReLU units over the images.",
        "Peng et al., ICLR 2024 (SWAP-NAS)",
        "forward",
    ),
    ScoreDefinition(
        "swap_regularised",
        "higher",
        "linear",
        "regularised SWAP",
        "The number of swap times exp(−(Θ − μ)² / σ), Θ being thousands of parameters; μ and σ belong to the search.",
        "Peng et al., ICLR 2024 (SWAP-NAS)",
        "forward",
        own_reads=(*_WEIGHTS, *_EPISODES, "swap"),
    ),
    ScoreDefinition(
        "meco",
        "higher",
        "linear",
        "MeCo",
        "Sum over convolutions of the smallest eigenvalue of the correlations between the channels of their maps, for "
        "one image of noise of 64 × 64 pixels, with batch normalisation. Looks at no image.",
        "Jiang, Wang, Bie, NeurIPS 2023",
        "own pass",
        own_reads=_WEIGHTS,
        sees="channels",
    ),
    ScoreDefinition(
        "params",
        "higher",
        "linear",
        "parameters",
        "Trainable parameters of the network that is meta-trained. A baseline that a score must beat.",
        "the baseline that every score must beat",
        "none",
        sees="shape",
    ),
    ScoreDefinition(
        "flops",
        "higher",
        "linear",
        "multiply-accumulates",
        "Multiply-accumulates (MACs) of one image through the network that is meta-trained. A baseline that a score "
        "must beat.",
        "the baseline that every score must beat",
        "none",
        sees="shape",
    ),
)
"""Every score. Counts are reported beside a score; as in the literature, larger is the better guess."""
