"""Measure, compare and reduce the social bias of language models through the geometry of neural collapse.

Public names are loaded on first use, because importing torch takes seconds and ``--help`` must not wait for it. The
stub next to this file tells type checkers and Python where each name comes from.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
