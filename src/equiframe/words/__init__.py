"""Words that fairness is measured on, and the token ids that stand for them."""

from equiframe.words.word_set import MultiToken, ResolvedWords, WordSet

__all__ = ["MultiToken", "ResolvedWords", "WordSet"]
