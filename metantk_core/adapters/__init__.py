"""Implementations of the ports of ``metantk_core.registry``: the only place that names MLflow, S3 and file systems."""
