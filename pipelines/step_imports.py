"""What the steps of a local run import, for the process that they are forks of."""

import contextlib

import kfp.dsl.executor_main  # noqa: F401
import matplotlib.figure  # noqa: F401
import torch  # noqa: F401

import metantk_core.adapters.mlflow_models
import metantk_core.adapters.mlflow_tracking
import metantk_core.workspace  # noqa: F401
from metantk_core.meta_training.learn2learn_import import load_maml

with contextlib.suppress(ImportError):  # the step that needs it says so
    load_maml()
