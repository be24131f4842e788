"""Fine-tune a copy of a language model with a new head, and keep what it gave."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import inspect
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from filelock import FileLock
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import EvalPrediction, PrinterCallback, TrainingArguments

from equiframe.benchmarks.fine_tuned import FineTuneSettings, HeadKind, MentionExample, Span, TextExample
from equiframe.errors import InputError, ModelError
from equiframe.models import LanguageModel
from equiframe.models.encoding import PadRight, check_length, cut_at_end
from equiframe.models.memory import in_less_memory
from equiframe.models.peft_adapter import is_quantised
from equiframe.models.spans import tokens_of
from equiframe.training import OneDevice, best_precision
from equiframe.training.trainer import LengthGrouped, Progress, ResumableTrainer

VERSION = 1
"""Raised when the same settings may give other outputs; then nothing cached before is read."""
_DROPOUT = 0.1
_SAVE_STEPS = 500


@dataclass(frozen=True)
class Predictions:
    """What a fine-tuned model gave for the evaluation examples.

    Args:
        outputs: one row an example, [examples, outputs], not-a-number where it could not be read.
        excluded: why not, by position of the example.
        cut: positions of the examples whose text was cut.
        steps: optimizer steps.
        accuracies: on the development examples after each epoch, empty where there are none.
    """

    outputs: NDArray[np.float64]
    excluded: Mapping[int, str]
    cut: frozenset[int]
    steps: int
    accuracies: tuple[float, ...]


Examples = Sequence[TextExample] | Sequence[MentionExample]


def fine_tuned_outputs(
    language_model: LanguageModel,
    *,
    head: HeadKind,
    outputs: int,
    settings: FineTuneSettings,
    training: Examples,
    development: Examples,
    evaluation: Examples,
    cache: Path,
    progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Fine-tune a copy of the model and apply it, or read what the same call gave before.

    The model itself is not changed. Checkpoints lie in ``cache`` until the outputs do, so that an
    interrupted call goes on where it was; outputs are found again by the model's fingerprint, the settings
    and the examples.

    Args:
        language_model: whose encoder and tokenizer are used; the language-modelling head is left out.
        head: what is put on the encoder.
        outputs: numbers it gives an example; 1 is a score, fitted by its squared error.
        settings: how to fine-tune.
        training: examples to fit.
        development: examples by whose accuracy the epoch is chosen; with none, the last one is kept.
        evaluation: examples to apply it to.
        cache: folder of the outputs, made where there is none.
        progress: called with steps done and steps in all.

    Raises:
        InputError: no example that can be read.
        ModelError: an architecture without an encoder of its own, or a loss that is not finite.
    """
    cache.mkdir(parents=True, exist_ok=True)
    key = _key(language_model, head, outputs, settings, (training, development, evaluation))
    file, work = cache / f"{key}.safetensors", cache / f"{key}.partial"
    with FileLock(cache / f"{key}.lock"):
        found = _read(file, (len(evaluation), outputs))
        if found is None:
            examples = training, development, evaluation
            found = _fit_in_memory(language_model, head, outputs, settings, examples, work, progress)
            _write(file, found)
        shutil.rmtree(work, ignore_errors=True)
    return found


def _key(
    language_model: LanguageModel,
    head: HeadKind,
    outputs: int,
    settings: FineTuneSettings,
    examples: Sequence[Examples],
) -> str:
    """Hash of all that the outputs follow from."""
    digest = hashlib.sha256()
    precision = best_precision(language_model.device)
    identity = (VERSION, language_model.fingerprint(), language_model.kind, head, outputs, precision)
    digest.update(json.dumps([*identity, dataclasses.asdict(settings)]).encode())
    for part in examples:
        digest.update(b"\n\n")
        for example in part:
            digest.update(f"{example!r}\n".encode())
    return digest.hexdigest()


def _write(file: Path, predictions: Predictions) -> None:
    """Under a temporary name first."""
    about = {
        "excluded": {str(at): why for at, why in predictions.excluded.items()},
        "cut": sorted(predictions.cut),
        "steps": predictions.steps,
        "accuracies": predictions.accuracies,
    }
    scratch = file.with_suffix(".temporary")
    save_file({"outputs": predictions.outputs}, scratch, metadata={"about": json.dumps(about)})
    scratch.replace(file)


def _read(file: Path, shape: tuple[int, int]) -> Predictions | None:
    """None where there is no such file, or none that was written to its end."""
    try:
        with safe_open(file, framework="np") as stored:
            outputs, about = stored.get_tensor("outputs"), json.loads(stored.metadata()["about"])
    except (OSError, SafetensorError):
        return None
    if outputs.shape != shape:
        return None
    return Predictions(
        outputs=outputs,
        excluded={int(at): why for at, why in about["excluded"].items()},
        cut=frozenset(about["cut"]),
        steps=about["steps"],
        accuracies=tuple(about["accuracies"]),
    )


def _fit_in_memory(
    language_model: LanguageModel,
    head: HeadKind,
    outputs: int,
    settings: FineTuneSettings,
    examples: tuple[Examples, Examples, Examples],
    work: Path,
    progress: Callable[[int, int], None] | None,
) -> Predictions:
    """Fit; where the memory does not suffice, again from the last checkpoint with each batch in two parts, or more."""
    size = settings.batch_size

    def more(parts: int) -> tuple[int, str]:
        if parts == size:
            raise ModelError("too little free memory for one example: give shorter ones (--head max_length)")
        more = parts * 2 if size % (parts * 2) == 0 else size
        return more, f"each batch of {size} is read in {more} parts"

    fit = functools.partial(_fit, language_model, head, outputs, settings, examples, work, progress)
    return in_less_memory(fit, 1, more)[0]


def _fit(
    language_model: LanguageModel,
    head: HeadKind,
    outputs: int,
    settings: FineTuneSettings,
    examples: tuple[Examples, Examples, Examples],
    work: Path,
    progress: Callable[[int, int], None] | None,
    parts: int,
) -> Predictions:
    """Fine-tune with each batch in so many parts, and apply the result to the evaluation examples."""
    training, development, evaluation = examples
    encode = Encoder(language_model, settings.max_length)
    fitted, _, _ = _dataset(encode, training, labelled=True, outputs=outputs)
    chosen_by, _, _ = _dataset(encode, development, labelled=True, outputs=outputs)
    applied_to, kept, read = _dataset(encode, evaluation, labelled=False, outputs=outputs)
    if not len(fitted) or not len(applied_to) or len(chosen_by) < min(len(development), 1):
        raise InputError(f"{language_model.name} can read none of the examples: {dict(encode.excluded)}")
    torch.manual_seed(settings.seed)
    trainer = _HeadTrainer(
        model=EncoderWithHead(language_model, head, outputs),
        args=_arguments(settings, work, parts, bool(development), language_model.device),
        train_dataset=fitted,
        eval_dataset=chosen_by if development else None,
        data_collator=_Collator(language_model),
        compute_metrics=_accuracy,
        callbacks=[Progress(progress)] if progress is not None else [],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train_on()
    by_length = np.argsort([len(ids) for ids in applied_to["input_ids"]], kind="stable")
    given = np.asarray(trainer.predict(applied_to.select(by_length)).predictions, dtype=np.float64)
    if not np.isfinite(given).all():
        raise ModelError("the fine-tuned model gives outputs that are not finite: lower the learning rate")
    table = np.full((len(evaluation), outputs), np.nan)
    table[np.asarray(kept)[by_length]] = given.reshape(len(by_length), -1)
    return Predictions(
        outputs=table,
        excluded={at: found for at, found in enumerate(read) if isinstance(found, str)},
        cut=frozenset(at for at, found in enumerate(read) if not isinstance(found, str) and found.cut),
        steps=trainer.state.global_step,
        accuracies=tuple(e["eval_accuracy"] for e in trainer.state.log_history if "eval_accuracy" in e),
    )


def _arguments(
    settings: FineTuneSettings, work: Path, parts: int, choosing: bool, device: torch.device
) -> TrainingArguments:
    """Where epochs are chosen among, checkpoints are written at their ends, else every so many steps."""
    strategy = "epoch" if choosing else "steps"
    return OneDevice(
        output_dir=str(work),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        learning_rate=settings.learning_rate,
        per_device_train_batch_size=settings.batch_size // parts,
        gradient_accumulation_steps=parts,
        per_device_eval_batch_size=2 * settings.batch_size // parts,
        seed=settings.seed,
        lr_scheduler_type="linear",
        weight_decay=0.0,
        max_grad_norm=1.0,
        bf16=best_precision(device) == "bf16",
        logging_steps=10,
        logging_nan_inf_filter=False,
        save_strategy=strategy,
        save_steps=_SAVE_STEPS,
        save_total_limit=2,
        eval_strategy=strategy if choosing else "no",
        load_best_model_at_end=choosing,
        metric_for_best_model="accuracy" if choosing else None,
        label_names=["labels"],
        report_to=[],
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        use_cpu=device.type == "cpu",
        disable_tqdm=True,
    )


def _accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Share of the examples whose highest output is that of their class."""
    right = np.asarray(prediction.predictions).argmax(axis=-1) == np.asarray(prediction.label_ids)
    return {"accuracy": float(right.mean())}


class EncoderWithHead(nn.Module):
    """A copy of a model's encoder, in float32, under a new head.

    ``sequence`` maps one state, after dropout: a masked LM's first token, a causal LM's last one.
    ``mentions`` represents the pronoun and either candidate by the first, the last and the mean state of
    their tokens, and scores a candidate by a perceptron over pronoun, candidate and their product; its
    outputs are both candidates' scores and 0 for neither.

    Args:
        language_model: whose weights are copied.
        head: see above.
        outputs: how many numbers it gives an example; 3 with ``mentions``.

    Raises:
        ModelError: the architecture does not separate an encoder from its language-modelling head, or the weights are
            quantised or spread over devices.
    """

    def __init__(self, language_model: LanguageModel, head: HeadKind, outputs: int) -> None:
        super().__init__()
        model = language_model.model
        if model.base_model is model:
            raise ModelError(f"{type(model).__name__} has no encoder apart from its head: it cannot be fine-tuned")
        if is_quantised(model) or language_model.is_spread:
            raise ModelError(
                f"{language_model.name}: a fine-tuned benchmark copies and trains the model, which weights that are"
                " quantised or spread over devices do not allow: leave out --model-arg and --device-map"
            )
        self.encoder = copy.deepcopy(model.base_model).float()
        self.encoder.requires_grad_(True)
        self.takes_types = "token_type_ids" in inspect.signature(self.encoder.forward).parameters
        self.reads_last = language_model.kind == "causal"
        self.outputs = outputs
        dim = model.config.get_text_config().hidden_size
        if head == "sequence":
            self.head = nn.Sequential(nn.Dropout(_DROPOUT), nn.Linear(dim, outputs))
        else:
            self.head = nn.Sequential(nn.Linear(9 * dim, dim), nn.GELU(), nn.Dropout(_DROPOUT), nn.Linear(dim, 1))
        for layer in self.head:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.head.to(language_model.device)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        spans: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Outputs [batch, outputs], with the loss where there are labels.

        Args:
            input_ids: tokens, [batch, length].
            attention_mask: 1 on tokens, 0 on padding, [batch, length].
            token_type_ids: 1 on the second text of a pair, [batch, length].
            spans: first and last token of pronoun and candidates, [batch, 3, 2].
            labels: classes or scores, [batch].
        """
        types = {"token_type_ids": token_type_ids} if self.takes_types and token_type_ids is not None else {}
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **types).last_hidden_state
        if spans is None:
            at = attention_mask.sum(dim=1) - 1 if self.reads_last else torch.zeros_like(input_ids[:, 0])
            logits = self.head(states[torch.arange(len(states), device=states.device), at])
        else:
            logits = self._mention_scores(states, spans)
        logits = logits.float()
        if labels is None:
            return {"logits": logits}
        if self.outputs == 1:
            loss = F.mse_loss(logits.squeeze(-1), labels.float())
        else:
            loss = F.cross_entropy(logits, labels.long())
        return {"loss": loss, "logits": logits}

    def _mention_scores(self, states: Tensor, spans: Tensor) -> Tensor:
        """Scores of both candidates, and 0, [batch, 3]."""
        places = torch.arange(states.shape[1], device=states.device)
        inside = (places >= spans[..., :1]) & (places <= spans[..., 1:])
        weights = (inside / inside.sum(dim=-1, keepdim=True)).to(states.dtype)
        rows = torch.arange(len(states), device=states.device)[:, None]
        ends = states[rows, spans[..., 0]], states[rows, spans[..., 1]]
        pronoun, first, second = torch.cat([*ends, weights @ states], dim=-1).unbind(dim=1)
        scores = [self.head(torch.cat([pronoun, one, pronoun * one], dim=-1)) for one in (first, second)]
        return torch.cat([*scores, torch.zeros_like(scores[0])], dim=-1)


class _HeadTrainer(ResumableTrainer):
    """The Trainer with training batches of like length, marked checkpoints, and an end to a loss that is not finite."""

    def compute_loss(self, model: nn.Module, inputs: Any, *rest: Any, **named: Any) -> Any:
        """The model's own loss."""
        result = super().compute_loss(model, inputs, *rest, **named)
        if not model.training:
            return result
        if not torch.isfinite(result):
            raise ModelError(
                f"the loss is {float(result.detach())} at step {self.state.global_step + 1}: lower the learning rate"
            )
        return self.share(inputs) * result

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthGrouped(size, dataset=dataset, seed=self.args.seed)


class _Collator:
    """From encoded examples to a batch, padded on the right whatever the tokenizer does."""

    def __init__(self, language_model: LanguageModel) -> None:
        self.pad = PadRight(language_model)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        batch = self.pad([row["input_ids"] for row in rows])
        if "token_type_ids" in rows[0]:
            types = [torch.tensor(row["token_type_ids"]) for row in rows]
            batch["token_type_ids"] = pad_sequence(types, batch_first=True)
        for name in ("spans", "labels"):
            if name in rows[0]:
                batch[name] = torch.tensor([row[name] for row in rows])
        return batch


@dataclass(frozen=True)
class _Encoded:
    """What the model reads of one example, and whether its text was cut."""

    features: Mapping[str, Any]
    cut: bool


def _dataset(
    encode: Encoder, examples: Examples, *, labelled: bool, outputs: int
) -> tuple[Dataset, list[int], list[_Encoded | str]]:
    """The examples that can be read, their positions, and for each example what is read of it, or why not."""
    read = encode(examples)
    kept = [at for at, found in enumerate(read) if not isinstance(found, str)]
    rows = []
    for at in kept:
        found = read[at]
        assert isinstance(found, _Encoded)
        label = examples[at].label
        labels = {"labels": label if outputs == 1 else int(label)} if labelled else {}
        rows.append({**found.features, **labels})
    return Dataset.from_list(rows), kept, read


class Encoder:
    """From examples to token ids.

    A masked LM reads one text or two as its tokenizer puts them together. A causal LM reads its start
    token, the text, and between two texts its end token. Texts longer than ``max_length`` are cut at the
    end, of two always the longer one; around mentions, at both ends.

    Args:
        language_model: whose tokenizer is used.
        max_length: in tokens, special ones included; never more than the model's window.
    """

    def __init__(self, language_model: LanguageModel, max_length: int) -> None:
        self.tokenizer = language_model.tokenizer
        self.codec = language_model.codec
        self.longest = min(max_length, language_model.window)
        check_length(language_model, self.longest, option="max_length")
        self.excluded: dict[str, int] = {}

    def __call__(self, examples: Examples) -> list[_Encoded | str]:
        """For each example what the model reads of it, or why it cannot."""
        read: list[_Encoded | str] = [
            self._mentions(example) if isinstance(example, MentionExample) else self._text(example)
            for example in examples
        ]
        for found in read:
            if isinstance(found, str):
                self.excluded[found] = self.excluded.get(found, 0) + 1
        return read

    def _text(self, example: TextExample) -> _Encoded:
        """One text or two."""
        if self.codec.kind == "causal":
            return self._causal_text(example)
        texts = [example.text] if example.second is None else [example.text, example.second]
        read = self.tokenizer(*texts, verbose=False)
        cut = len(read["input_ids"]) > self.longest
        if cut:
            read = cut_at_end(self.tokenizer, *texts, max_length=self.longest)
        features = {name: read[name] for name in ("input_ids", "token_type_ids") if name in read}
        return _Encoded(features, cut)

    def _causal_text(self, example: TextExample) -> _Encoded:
        plain = [
            self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            for text in (example.text, example.second)
            if text is not None
        ]
        room = self.longest - len(plain)
        cut = sum(map(len, plain)) > room
        while sum(map(len, plain)) > room:
            max(plain, key=len).pop()
        ids = [self.codec.start_id, *plain[0]]
        if len(plain) == 2:
            end = self.tokenizer.eos_token_id
            ids += [self.codec.start_id if end is None else end, *plain[1]]
        return _Encoded({"input_ids": ids}, cut)

    def _mentions(self, example: MentionExample) -> _Encoded | str:
        """A text and the tokens of its mentions."""
        read = self.tokenizer(example.text, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False)
        ids, special = read["input_ids"], read["special_tokens_mask"]
        lead = next((at for at, is_special in enumerate(special) if not is_special), len(ids))
        trail = next((at for at, is_special in enumerate(special[::-1]) if not is_special), 0)
        before, body, after = ids[:lead], ids[lead : len(ids) - trail], ids[len(ids) - trail :]
        if self.codec.kind == "causal" and not before:
            before = [self.codec.start_id]
        offsets = read["offset_mapping"][lead : len(ids) - trail]
        spans = [_tokens(span, offsets) for span in (example.pronoun, *example.candidates)]
        if any(span is None for span in spans):
            return "a mention has no token"
        places = [place for span in spans if span is not None for place in span]
        room = self.longest - len(before) - len(after)
        spread = max(places) - min(places) + 1
        if spread > room:
            return "the mentions stand too far apart for the model's window"
        start = min(max(min(places) - (room - spread) // 2, 0), max(len(body) - room, 0))
        shift = len(before) - start
        return _Encoded(
            {
                "input_ids": [*before, *body[start : start + room], *after],
                "spans": [[first + shift, last + shift] for first, last in zip(places[::2], places[1::2], strict=True)],
            },
            cut=len(body) > room,
        )


def _tokens(span: Span, offsets: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """First and last token of a stretch of text."""
    inside = tokens_of(span, offsets)
    return (inside[0], inside[-1]) if inside else None
