"""Words to measure fairness on, and their token ids."""

from equiframe.words.word_set import MultiToken, ResolvedWords, WordSet

__all__ = ["MultiToken", "ResolvedWords", "WordSet"]
