"""Tiny models with real tokenizers, built in memory: nothing is fetched and nothing takes long."""

from __future__ import annotations

import contextlib
import gc
import io
import os
from typing import NamedTuple

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

TEXT = [
    "she is a nurse and he is a doctor",
    "he said that his mother was a teacher",
    "she told her father about the job",
    "the woman met the man in the street",
    "the girl and the boy play with a ball",
    "his sister works as an engineer",
    "her brother is a cook , and he likes it",
    "the king and the queen have a son and a daughter",
]
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def word_piece_tokenizer():
    """A BERT tokenizer over the words above."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = [chr(c) for c in range(97, 123)]
    words = sorted({w for line in TEXT for w in line.split()} | set(letters))
    pieces = [*SPECIALS, *words, *(f"##{c}" for c in letters), "."]
    tokenizer = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=64,
        **dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIALS, strict=True)),
    )


def byte_level_tokenizer():
    """A GPT-2 tokenizer trained on the lines above."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>", model_max_length=64
    )


def build_masked():
    """A random two-layer BERT."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    tokenizer = word_piece_tokenizer()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    return BertForMaskedLM(config).eval(), tokenizer


def build_causal():
    """A random two-layer GPT-2."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = byte_level_tokenizer()
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=64,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config).eval(), tokenizer


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Answers are kept for one test alone."""
    monkeypatch.setenv("EQUIFRAME_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory):
    """Local directories of a masked and a causal model, as a user would name them."""
    folders = {}
    for kind, build in (("masked", build_masked), ("causal", build_causal)):
        folder = tmp_path_factory.mktemp(kind)
        model, tokenizer = build()
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        folders[kind] = folder
    return folders


@pytest.fixture
def no_collector():
    """Nothing that refers to itself is freed unless someone asks for it."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(params=["masked", "causal"])
def language_model(request, model_folders):
    """A freshly loaded tiny model of each kind."""
    from equiframe.models import load

    return load(str(model_folders[request.param]), device="cpu")


@pytest.fixture
def masked_model(model_folders):
    """A freshly loaded tiny masked LM."""
    from equiframe.models import load

    return load(str(model_folders["masked"]), device="cpu")


@pytest.fixture
def causal_model(model_folders):
    """A freshly loaded tiny causal LM."""
    from equiframe.models import load

    return load(str(model_folders["causal"]), device="cpu")


@pytest.fixture(scope="session")
def real_items():
    """Items of a benchmark as its data stand in the wheel, or in a folder; read once a session, skipped if missing."""
    import functools

    from equiframe.benchmarks import load_benchmark
    from equiframe.errors import MissingDataError

    @functools.cache
    def read(spec, folder=None):
        try:
            return load_benchmark(spec).items(folder)[0]
        except MissingDataError as error:
            return str(error)

    def found(spec, folder=None):
        items = read(spec, folder)
        return pytest.skip(items) if isinstance(items, str) else items

    return found


@pytest.fixture
def text():
    """Eight plain sentences."""
    return list(TEXT)


@pytest.fixture
def gap_folder(tmp_path, text):
    """A folder of the user's own data files: a tiny GAP."""
    folder = tmp_path / "data"
    folder.mkdir()
    columns = "ID Text Pronoun Pronoun-offset A A-offset A-coref B B-offset B-coref URL".split()
    for split in ("development", "test", "validation"):
        rows = ["\t".join(columns)]
        for i, line in enumerate(text):
            rows.append("\t".join([f"{split}-{i}", line.capitalize() + ".", *["x"] * 9]))
        (folder / f"gap-{split}.tsv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="session")
def new_tokenizer():
    """Builds the word-piece tokenizer anew, for tests that change one."""
    return word_piece_tokenizer


class Done(NamedTuple):
    """How a command ended, and what it wrote."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self):
        return self.stdout + self.stderr


@pytest.fixture(scope="session")
def invoke():
    """The command in this process: ``invoke("audit", model, "--json")``."""
    from equiframe import cli

    def invoked(*arguments):
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as error:
            try:
                cli.main([str(argument) for argument in arguments])
                code = 0
            except SystemExit as ended:
                code = ended.code
        return Done(code, out.getvalue(), error.getvalue())

    return invoked
