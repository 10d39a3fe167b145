from .cells import draw_cell_png, draw_cell_svg
from .data import CandidateKernel, ReportData, TrainedCandidate
from .page import render, write_report

__all__ = [
    "CandidateKernel",
    "ReportData",
    "TrainedCandidate",
    "draw_cell_png",
    "draw_cell_svg",
    "render",
    "write_report",
]
