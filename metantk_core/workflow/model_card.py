"""What people should know of a trained network before they use it: run, network and accuracy enter, Markdown leaves."""

from metantk_core.config import RunConfig
from metantk_core.datasets import ImageDataset
from metantk_core.meta_training import Evaluation, MamlTraining, TrainedModel
from metantk_core.statistics import telling_half_width
from metantk_core.workflow.runs import versions

_LIMITS = (
    "**Limits.** The interval is over the episodes of one training; another seed moves the accuracy, too{seeds}. On "
    "other images, other numbers of ways and shots, or images prepared otherwise, the accuracy is not known. "
    "Probabilities are not calibrated."
)


def model_card(
    config: RunConfig,
    model: TrainedModel,
    evaluation: Evaluation,
    dataset: ImageDataset,
    *,
    joined: Evaluation | None = None,
    searched: bool = True,
) -> str:
    """Return the model card of a few-shot classifier as Markdown.

    Args:
        config: The run that found and trained it.
        model: The network.
        evaluation: Its accuracy on test classes.
        dataset: The images.
        joined: The accuracy over all trainings of the network, if it was trained several times.
        searched: Whether the run's search chose the network.
    """
    training = config.training
    shape = " × ".join(map(str, model.image_shape))
    classes = f"{model.ways} classes" if model.ways else "as many classes as the support images have"
    diverged = f", where training diverged ({model.reason})" if model.outcome == "diverged" else ""
    kept = "" if getattr(training, "keep", "best") == "last" else ", best on validation classes"
    train, test = dataset.train, dataset.test
    several = joined is not None and len(joined.trainings) > 1
    rows = {
        "In": f"image files, those of known classes with a label (resized to {shape} as in training)",
        "Out": f"for each of the others its class, with probabilities of {classes}; queries "
        f"{'help' if evaluation.transductive else 'do not help'} each other",
        "Network": f"`{model.genotype}` of `{model.space}`"
        + (f", chosen by {config.criterion.label} at initialisation" if searched else ", named by hand"),
        "Training": f"{model.protocol}; {model.iterations} iterations{diverged}, the weights of iteration "
        f"{model.best_iteration}{kept}",
        **({"Other seeds": _over_seeds(joined)} if joined is not None and several else {}),
        "Answers": _answer(model),
        "Images": f"`{dataset.name}`, digest `{dataset.digest}`: trained on {len(train.labels):,} images of "
        f"{len(train.class_names)} classes, evaluated on {len(test.labels):,} of {len(test.class_names)} others",
        "Published": evaluation.published,
        "Licence": _licence(config),
        "Made by": f"run `{config.run_id}`, seed {config.seed}"
        + (f", training seed {model.seed}; " if model.seed != config.seed else "; ")
        + ", ".join(f"{name} {version}" for name, version in versions()),
    }
    table = "".join(f"| {name} | {_escaped(text)} |\n" for name, text in rows.items())
    limits = _LIMITS.format(seeds=" (see Other seeds)" if several else "")
    return f"**Few-shot classifier**, {evaluation.summary()}.\n\n| | |\n|---|---|\n{table}\n{limits}\n"


def _over_seeds(joined: Evaluation) -> str:
    """Return what a network's trainings with other seeds came to, in words."""
    telling = telling_half_width(joined.half_width)
    accuracies = ", ".join(f"{100 * sum(one) / len(one):.1f}" for one in joined.trainings)
    return (
        f"of {len(joined.trainings)} trainings this one was best on validation classes; over all of them "
        f"{100 * joined.accuracy:.1f}{f' ± {100 * telling:.1f}' if telling is not None else ''} % ({accuracies}), "
        f"{f'the {joined.interval}' if telling is not None else 'too few for an interval'}"
    )


def _licence(config: RunConfig) -> str:
    """Return the licence of the weights, in words; the code's is not theirs."""
    if config.model_licence is not None:
        return config.model_licence
    if config.data.source == "glyphs":
        return "Apache-2.0; trained on letters of the free typefaces that come with matplotlib"
    return "not stated (`model_licence`); whether weights may be passed on depends on the licence of the images"


def _answer(model: TrainedModel) -> str:
    """Return how the network answers, in words."""
    training = model.training
    if isinstance(training, MamlTraining):
        return f"adapts by {training.inner_steps} gradient steps of {training.inner_learning_rate:g}"
    copies = training.augmented_copies
    varied = f", of {copies} augmented copies of each support image" if copies else ""
    return f"by {training.classifier.replace('_', ' ')} on its features{varied}"


def _escaped(text: str) -> str:
    """Return a text as it can stand in a table: genotypes hold bars, which end a cell even inside of code."""
    return text.replace("|", "\\|")
