"""Files and texts: where they come from, what they hold, and their gender-swapped counterparts."""

from equiframe.data.corpora import Corpus, corpus, split_sentences
from equiframe.data.counterfactual import CounterfactualSwapper
from equiframe.data.sources import (
    KNOWN,
    DataFile,
    LocatedFile,
    locate,
    read_delimited,
    read_json,
    read_text,
)

__all__ = [
    "KNOWN",
    "Corpus",
    "CounterfactualSwapper",
    "DataFile",
    "LocatedFile",
    "corpus",
    "locate",
    "read_delimited",
    "read_json",
    "read_text",
    "split_sentences",
]
