"""Files and texts: where they come from, what they hold, and their counterfactuals."""

from equiframe.data.corpora import Corpus, corpus, split_sentences
from equiframe.data.counterfactual import CounterfactualSwapper, augment
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
    "Corpus",
    "CounterfactualSwapper",
    "DataFile",
    "KnownFile",
    "LocatedFile",
    "augment",
    "corpus",
    "locate",
    "read_delimited",
    "read_json",
    "read_jsonl",
    "read_text",
    "split_sentences",
]
