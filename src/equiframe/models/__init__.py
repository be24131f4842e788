"""Language models as the rest of the library sees them."""

from equiframe.models.adapter import Read, forward_at, output_embedding, pair
from equiframe.models.collect import Collected, collect
from equiframe.models.loading import BUILTIN, LanguageModel, cache_folder, load
from equiframe.models.saving import save

__all__ = [
    "BUILTIN",
    "Collected",
    "LanguageModel",
    "Read",
    "cache_folder",
    "collect",
    "forward_at",
    "load",
    "output_embedding",
    "pair",
    "save",
]
