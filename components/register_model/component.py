"""Step: the best candidate's network and accuracy in, a version in the model registry out."""

from kfp import dsl


@dsl.component(base_image="metantk-python:0.1.0", install_kfp_package=False, packages_to_install=[])
def register_model(
    run: dsl.Input[dsl.Artifact],
    store: str,
    tracking_uri: str,
    roles: list[str],
    dataset: dsl.Input[dsl.Dataset],
    models: dsl.Input[list[dsl.Model]],
    evaluations: dsl.Input[list[dsl.Artifact]],
) -> str:
    """Register the best candidate's network as a few-shot classifier and finish the run.

    Args:
        run: The run: its ``RunConfig`` as JSON, as the first step wrote it.
        store: Address of the artifact store.
        tracking_uri: Address of MLflow.
        roles: The names of the trainings of ``models`` and ``evaluations``, in their order.
        dataset: Folder with the prepared arrays; gives the input example.
        models: Folders of the meta-trained networks.
        evaluations: Their accuracies on test classes, as JSON.

    Returns:
        URI of the registered version.
    """
    from pathlib import Path

    from metantk_core import datasets, steps, workflow
    from metantk_core.meta_training import Evaluation

    with steps.open_step("register model", run.path, store=store, tracking_uri=tracking_uri) as (config, ports):
        registered = workflow.register_model(
            config,
            {role: Path(model.path) for role, model in zip(roles, models, strict=True)},
            {
                role: Evaluation.from_json(Path(evaluation.path).read_text(encoding="utf-8"))
                for role, evaluation in zip(roles, evaluations, strict=True)
            },
            datasets.load(Path(dataset.path)),
            ports,
        )
        return registered.uri
