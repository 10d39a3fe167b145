"""Step: everything that a run found in, one HTML file out."""

from typing import Any

from components.write_report import component

# Any: what Kubeflow makes of a function takes a graph's channels, which the function's own annotations don't tell.
write_report: Any = component.write_report

__all__ = ["write_report"]
