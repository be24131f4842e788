"""The (U)NC3 term in your own Hugging Face Trainer: here masked language modelling on gender-swapped text.

    python examples/debias_with_trainer.py --model bert-base-uncased --out runs/my-model

Without options it runs on the small model that comes with equiframe. ``equiframe evaluate runs/my-model`` scores the
result.
"""

import argparse

import torch
from datasets import Dataset
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

import equiframe
from equiframe.data import CounterfactualSwapper, stream

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="builtin:mini-mlm", help="hub name or local directory of a masked LM")
parser.add_argument("--out", default="runs/debias-with-trainer")
parser.add_argument("--max-steps", type=int, default=100)
options = parser.parse_args()


class FairTrainer(equiframe.UNC3Mixin, Trainer):
    """The Trainer, with the term added to its loss."""


model = equiframe.load(options.model)
swap = CounterfactualSwapper.gender().swap
texts = [side for text, _ in zip(stream("bug/balanced"), range(2000), strict=False) for side in (text, swap(text))]
encoded = model.tokenizer(texts, truncation=True, max_length=64)

words = equiframe.WordSet.builtin("gender").resolve(model.tokenizer)
dim = model.model.get_output_embeddings().weight.shape[1]
trainer = FairTrainer(
    model=model.model,
    args=TrainingArguments(
        options.out, max_steps=options.max_steps, learning_rate=5e-5, report_to=[], logging_steps=10
    ),
    train_dataset=Dataset.from_dict(dict(encoded)),
    data_collator=DataCollatorForLanguageModeling(model.tokenizer, mlm_probability=0.15),
    processing_class=model.tokenizer,
    unc3=equiframe.UNC3Regularizer(torch.tensor(words.token_ids), dim, weight=100.0),
    unc3_kind="masked",
)
trainer.train()
trainer.save_model()
model.tokenizer.save_pretrained(options.out)
print(f"(U)NC3 of the last batch: {float(trainer.unc3.last_parts['unc3']):.4f}; saved in {options.out}")
