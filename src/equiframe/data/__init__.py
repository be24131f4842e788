"""Data files and texts: their sources, their contents, and their counterfactuals."""

from equiframe.data.corpora import Corpus, TextStream, corpus, split_sentences, stream
from equiframe.data.counterfactual import Bias, CounterfactualSwapper, augment, swappers
from equiframe.data.known import KNOWN, KnownFile
from equiframe.data.reading import read_delimited, read_json, read_jsonl, read_text
from equiframe.data.sources import DEFAULT_SOURCE, AnySource, DataFile, DataSource, LocatedFile, locate

__all__ = [
    "DEFAULT_SOURCE",
    "KNOWN",
    "AnySource",
    "Bias",
    "Corpus",
    "CounterfactualSwapper",
    "DataFile",
    "DataSource",
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
