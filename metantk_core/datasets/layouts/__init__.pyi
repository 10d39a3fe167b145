from .recognition import LAYOUTS, recognised

__all__ = ["LAYOUTS", "recognised"]
