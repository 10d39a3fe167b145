"""The report of a run: what a run found enters, one self-contained HTML file leaves."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
