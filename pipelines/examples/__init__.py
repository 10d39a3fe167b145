"""Pipelines of other people, with steps of this project in them."""
