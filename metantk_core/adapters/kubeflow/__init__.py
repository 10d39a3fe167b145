"""Kubeflow Pipelines: how it is reached, what it is asked and answers, its packages, its rules of time."""
