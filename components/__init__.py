"""Kubeflow steps: one folder is one step, an adapter of a few lines around ``metantk_core.workflow``.

The folders have the form of the official repository of components (kubeflow/pipelines-components): ``component.py``,
which stands alone, ``metadata.yaml``, and a README that ``python -m components.documentation`` makes of both.

A step's function is shipped as source and runs in an image that holds ``metantk_core``: its body imports what it uses
and reads nothing of its module. All steps take the whole configuration as one JSON text (Kubeflow would turn the
integers of a dictionary into floats) and two addresses: ``store`` keeps finished work between attempts,
``tracking_uri`` is MLflow's. What a step needs comes through its inputs: the store only saves repetition, and without
one a pipeline ends with the same leaderboard.
"""
