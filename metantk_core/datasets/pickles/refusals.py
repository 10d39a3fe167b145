"""Why a pickle is not read: what is wrong with it, and what to do instead."""

ONLY = "only arrays, numbers, text, lists and dictionaries are read from a pickle, and nothing in it is run"
DISTRUST = (
    f"{ONLY}. Don't load the file with Python either unless you trust whoever made it; then write its arrays anew with "
    "np.savez"
)
WRITE_ANEW = f"{ONLY}. Write its arrays anew with np.savez, in a program that you trust"
COPY_ANEW = "the file is cut off or damaged. Copy or download it again"


class RefusalError(Exception):
    """A pickle holds what is not read.

    Args:
        what: What the file does, as words that follow its name.
        instead: What was expected, and what a person can do.
    """

    def __init__(self, what: str, instead: str = WRITE_ANEW) -> None:
        super().__init__(what)
        self.what = what
        self.instead = instead
