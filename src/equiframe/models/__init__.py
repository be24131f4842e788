"""Language models, in the form that the rest of the library uses."""

from equiframe.models.adapter import Read, forward_at, output_embedding, pair
from equiframe.models.collecting import Collected, collect
from equiframe.models.language_model import LanguageModel
from equiframe.models.loading import load
from equiframe.models.saving import save
from equiframe.models.sources import BUILTIN

__all__ = [
    "BUILTIN",
    "Collected",
    "LanguageModel",
    "Read",
    "collect",
    "forward_at",
    "load",
    "output_embedding",
    "pair",
    "save",
]
