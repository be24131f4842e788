"""See, measure and reduce the social bias of language models by the geometry of neural collapse.

Public names are loaded on first use: torch takes seconds, and ``--help`` must not wait for it. The stub beside this
file says where each is from, to type checkers and to Python.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
