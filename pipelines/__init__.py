"""Kubeflow graphs: which steps, in which order, on which resources."""
