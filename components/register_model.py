"""Step: the best candidate's network and accuracy in, a version in the model registry out."""

from kfp import dsl

from components.step import step


@step
def register_model(
    config: str,
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
        config: ``RunConfig`` as JSON.
        run: Text file with the identifier of the run in MLflow.
        store: Address of the artifact store.
        tracking_uri: Address of MLflow.
        roles: The roles of ``models`` and ``evaluations``, in their order.
        dataset: Folder with the prepared arrays; gives the input example.
        models: Folders of the meta-trained networks.
        evaluations: Their accuracies on test classes, as JSON.

    Returns:
        URI of the registered version.
    """
    from pathlib import Path

    from metantk_core import datasets, workflow, workspace
    from metantk_core.meta_training import Evaluation

    with workspace.open_step(config, store=store, tracking_uri=tracking_uri, run=Path(run.path)) as (run_config, ports):
        best = roles.index("best")
        registered = workflow.register_model(
            run_config,
            Path(models[best].path),
            Evaluation.from_json(Path(evaluations[best].path).read_text(encoding="utf-8")),
            datasets.load(Path(dataset.path)),
            ports,
        )
        return registered.uri
