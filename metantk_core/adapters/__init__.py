"""Implementations of the ports of ``metantk_core.ports``: the only place that names MLflow, S3 and file systems."""
