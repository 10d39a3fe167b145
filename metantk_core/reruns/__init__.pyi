from .comparison import Comparison, Verdict, compare
from .figures import FIGURES, Estimate, Figure, Status
from .history import Past, markdown_of, numbers_of
from .page import HistoryData, render_history, write_history
from .rerun import Rerun, Surroundings, Timing

__all__ = [
    "FIGURES",
    "Comparison",
    "Estimate",
    "Figure",
    "HistoryData",
    "Past",
    "Rerun",
    "Status",
    "Surroundings",
    "Timing",
    "Verdict",
    "compare",
    "markdown_of",
    "numbers_of",
    "render_history",
    "write_history",
]
