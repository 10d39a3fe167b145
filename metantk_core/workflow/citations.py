"""What to cite: how a network was trained enters, BibTeX leaves."""

from collections.abc import Mapping
from types import MappingProxyType

from metantk_core.meta_training import Algorithm, TrainingConfig

_METHOD = """@inproceedings{wang2022global,
  title = {Global Convergence of {MAML} and Theory-Inspired Neural Architecture Search for Few-Shot Learning},
  author = {Wang, Haoxiang and Wang, Yite and Sun, Ruoyu and Li, Bo},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2022},
  eprint = {2203.09137},
  archiveprefix = {arXiv},
}
"""

_LEARNERS: Mapping[Algorithm, str] = MappingProxyType(
    {
        "maml": """@inproceedings{finn2017model,
  title = {Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks},
  author = {Finn, Chelsea and Abbeel, Pieter and Levine, Sergey},
  booktitle = {International Conference on Machine Learning},
  year = {2017},
}
""",
        "anil": """@inproceedings{raghu2020rapid,
  title = {Rapid Learning or Feature Reuse? Towards Understanding the Effectiveness of {MAML}},
  author = {Raghu, Aniruddh and Raghu, Maithra and Bengio, Samy and Vinyals, Oriol},
  booktitle = {International Conference on Learning Representations},
  year = {2020},
}
""",
        "protonet": """@inproceedings{snell2017prototypical,
  title = {Prototypical Networks for Few-shot Learning},
  author = {Snell, Jake and Swersky, Kevin and Zemel, Richard},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2017},
}
""",
        "rfs": """@inproceedings{tian2020rethinking,
  title = {Rethinking Few-Shot Image Classification: A Good Embedding Is All You Need?},
  author = {Tian, Yonglong and Wang, Yue and Krishnan, Dilip and Tenenbaum, Joshua B. and Isola, Phillip},
  booktitle = {European Conference on Computer Vision},
  year = {2020},
}
""",
    }
)


def citations(training: TrainingConfig) -> str:
    """Return BibTeX of the paper whose search this is, and of the learner.

    Args:
        training: Says which learner.
    """
    return f"{_METHOD}\n{_LEARNERS[training.algorithm]}"
