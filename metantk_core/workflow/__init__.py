"""The steps of a run, one function each: configuration, data and ports enter, values leave; every step can be repeated.

The functions know no cluster and no server. Whoever calls them (a Kubeflow component, an MLflow project, the command
line) gives them ``Ports``. What is expensive is stored at once in the artifact store under a digest of all that it
depends on: a step repeated after a crash, or for the second time, computes only what is missing and logs nothing twice.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
