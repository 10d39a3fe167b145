from .recognition import LAYOUTS, chosen, no_folder, recognised

__all__ = ["LAYOUTS", "chosen", "no_folder", "recognised"]
