"""Step: what got worse in a benchmark in; a step that fails if anything did out."""

from kfp import dsl


@dsl.component(base_image="metantk-python:0.1.0", install_kfp_package=False, packages_to_install=[])
def judge_benchmark(regression: str) -> None:
    """Fail with a sentence, and exit code 3, if a benchmark got worse; its page and tags are where they belong by now.

    Args:
        regression: What got worse, in a sentence; empty if nothing did.
    """
    import sys

    if regression:
        print(f"metantk: {regression}", file=sys.stderr)  # noqa: T201 - a pod's log is its terminal
        sys.exit(3)
