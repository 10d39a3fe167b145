"""The report of a run: what a run found enters, one self-contained HTML file leaves."""

from metantk_core.report.cells import draw_cell_png, draw_cell_svg
from metantk_core.report.data import CandidateKernel, ReportData, TrainedCandidate
from metantk_core.report.page import render, write_report

__all__ = [
    "CandidateKernel",
    "ReportData",
    "TrainedCandidate",
    "draw_cell_png",
    "draw_cell_svg",
    "render",
    "write_report",
]
