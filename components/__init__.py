"""Kubeflow steps: one module is one step, an adapter of a few lines around ``metantk_core.workflow``."""
