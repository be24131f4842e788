"""Files and texts: where they come from, what they hold, and their counterfactuals."""

from equiframe.data.corpora import Corpus, TextStream, corpus, split_sentences, stream
from equiframe.data.counterfactual import Bias, CounterfactualSwapper, augment, swappers
from equiframe.data.sources import (
    KNOWN,
    DataFile,
    KnownFile,
    LocatedFile,
    locate,
    read_delimited,
    read_json,
    read_jsonl,
    read_text,
)

__all__ = [
    "KNOWN",
    "Bias",
    "Corpus",
    "CounterfactualSwapper",
    "DataFile",
    "KnownFile",
    "LocatedFile",
    "TextStream",
    "augment",
    "corpus",
    "locate",
    "read_delimited",
    "read_json",
    "read_jsonl",
    "read_text",
    "split_sentences",
    "stream",
    "swappers",
]
