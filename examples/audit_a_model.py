"""How collapsed is a model on the words of gender, compared with the whole vocabulary?

    python examples/audit_a_model.py --model bert-base-uncased

Without options it runs on the small model that comes with equiframe.
"""

import argparse

import torch

import equiframe
from equiframe.data import stream

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="builtin:mini-mlm", help="hub name or local directory")
parser.add_argument("--sentences", type=int, default=2000)
options = parser.parse_args()

model = equiframe.load(options.model)
sentences = [text for text, _ in zip(stream("bug/balanced"), range(options.sentences), strict=False)]
collected = equiframe.collect(model, sentences)

head = model.model.get_output_embeddings().weight.detach()
words = equiframe.WordSet.builtin("gender").resolve(model.tokenizer)
print(words.summary())
for name, statistics in {
    "vocabulary": collected.statistics.seen(5),
    "gender": collected.statistics.select(torch.tensor(words.token_ids), min_count=5),
}.items():
    metrics = equiframe.collapse_metrics(statistics, head[statistics.class_ids])
    print(
        f"{name}: {len(statistics.class_ids)} classes, NC1 {metrics['nc1_cdnv_mean']:.3f},"
        f" NC3 {metrics['nc3_self_duality']:.3f}, (U)NC3 {metrics['unc3']:.4f}"
    )
