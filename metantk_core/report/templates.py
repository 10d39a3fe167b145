"""What self-contained pages are made with: a package with a template enters, its environment and the style leave."""

from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from metantk_core.report.charts import colour_variables


def environment(package: str) -> Environment:
    """Return what renders the templates of a package: all texts of people escaped, no name without a value."""
    return Environment(
        loader=PackageLoader(package, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def style() -> Markup:
    """Return the style of all pages, with the colours of the charts."""
    text = resources.files("metantk_core.report").joinpath("style.css").read_text(encoding="utf-8")
    return Markup(colour_variables() + "\n" + text)  # noqa: S704 - ours, nothing of people in it
