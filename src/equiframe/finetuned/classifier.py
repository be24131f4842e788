"""Fine-tuning of a copy of a language model with a new head, and its stored outputs."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache
from filelock import FileLock
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from transformers import EvalPrediction, PrinterCallback, TrainingArguments

from equiframe.benchmarks.benchmark import Excluded
from equiframe.benchmarks.fine_tuned import FineTuneSettings, HeadKind
from equiframe.errors import InputError, ModelError
from equiframe.files import written_whole
from equiframe.finetuned.encoding import Encoded, Encoder, Examples, encoded_dataset
from equiframe.finetuned.head import EncoderWithHead
from equiframe.models import LanguageModel
from equiframe.models.encoding import PadRight
from equiframe.models.memory import in_less_memory
from equiframe.training import OneDevice, training_precision
from equiframe.training.trainer import Progress, ResumableTrainer

VERSION = 1
"""A number that is raised when the same settings may give other outputs; then older cached outputs are not read."""
_SAVE_STEPS = 500


@dataclass(frozen=True)
class Predictions:
    """The outputs of a fine-tuned model for the evaluation examples.

    Args:
        outputs: one row per example, [examples, outputs], NaN if the example could not be read.
        excluded: reasons, by position of the example.
        cut: positions of the examples whose text was cut.
        steps: number of optimizer steps.
        accuracies: accuracy on the development examples after each epoch; empty if there are none.
    """

    outputs: NDArray[np.float64]
    excluded: Mapping[int, str]
    cut: frozenset[int]
    steps: int
    accuracies: tuple[float, ...]


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
    """Fine-tune a copy of the model and apply it, or read the outputs of an earlier call.

    The model itself is not changed. Checkpoints are in ``cache`` until the outputs are, so that an
    interrupted call resumes; outputs are found again by the model's fingerprint, the settings
    and the examples.

    Args:
        language_model: the model whose encoder and tokenizer are used; its language-modelling head is left out.
        head: the head that is put on the encoder.
        outputs: number of outputs for an example; 1 is a score, fitted by its squared error.
        settings: how to fine-tune.
        training: examples to fit.
        development: examples whose accuracy chooses the epoch; without them the last epoch is kept.
        evaluation: examples to which the fine-tuned model is applied.
        cache: folder of the outputs, created if it does not exist.
        progress: called with the steps done so far, and the number of all steps.

    Raises:
        InputError: no example can be read, or fp16 is set without a GPU.
        ModelError: the architecture has no separate encoder, or a loss is not finite.
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
    """Hash everything that the outputs depend on."""
    digest = hashlib.sha256()
    precision = training_precision(settings.precision, language_model.device)
    identity = (VERSION, language_model.fingerprint(), language_model.kind, head, outputs, precision)
    digest.update(json.dumps([*identity, dataclasses.asdict(settings)]).encode())
    for part in examples:
        digest.update(b"\n\n")
        for example in part:
            digest.update(f"{example!r}\n".encode())
    return digest.hexdigest()


def _write(file: Path, predictions: Predictions) -> None:
    """Write the file completely or not at all."""
    about = {
        "excluded": {str(at): why for at, why in predictions.excluded.items()},
        "cut": sorted(predictions.cut),
        "steps": predictions.steps,
        "accuracies": predictions.accuracies,
    }
    with written_whole(file) as scratch:
        save_file({"outputs": predictions.outputs}, scratch, metadata={"about": json.dumps(about)})


def _read(file: Path, shape: tuple[int, int]) -> Predictions | None:
    """Read the file; None if it does not exist or was not written completely."""
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
    """Fit; if there is too little memory, start again from the last checkpoint with each batch in two or more parts."""
    size = settings.batch_size

    def more(parts: int) -> tuple[int, str]:
        if parts == size:
            raise ModelError("too little free memory for one example: give shorter ones (--head max_length)")
        more = parts * 2 if size % (parts * 2) == 0 else size
        return more, f"each batch of {size} is read in {more} parts"

    fit = functools.partial(_fit, language_model, head, outputs, settings, examples, work, progress)
    found = in_less_memory(fit, 1, more)[0]
    clear_device_cache(garbage_collection=True)  # the Trainer refers to itself, and holds the copy of the model
    return found


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
    """Fine-tune with each batch in this many parts, and apply the result to the evaluation examples."""
    training, development, evaluation = examples
    encode = Encoder(language_model, settings.max_length)
    fitted, _, _ = encoded_dataset(encode, training, labelled=True, outputs=outputs)
    chosen_by, _, _ = encoded_dataset(encode, development, labelled=True, outputs=outputs)
    applied_to, kept, read = encoded_dataset(encode, evaluation, labelled=False, outputs=outputs)
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
        excluded={at: found.reason for at, found in enumerate(read) if isinstance(found, Excluded)},
        cut=frozenset(at for at, found in enumerate(read) if isinstance(found, Encoded) and found.cut),
        steps=trainer.state.global_step,
        accuracies=tuple(e["eval_accuracy"] for e in trainer.state.log_history if "eval_accuracy" in e),
    )


def _arguments(
    settings: FineTuneSettings, work: Path, parts: int, choosing: bool, device: torch.device
) -> TrainingArguments:
    """The training arguments: checkpoints are at the ends of epochs if one is chosen, else at regular steps."""
    strategy = "epoch" if choosing else "steps"
    precision = training_precision(settings.precision, device)
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
        bf16=precision == "bf16",
        fp16=precision == "fp16",
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
    """Share of the examples whose highest output is the one of their class."""
    right = np.asarray(prediction.predictions).argmax(axis=-1) == np.asarray(prediction.label_ids)
    return {"accuracy": float(right.mean())}


class _HeadTrainer(ResumableTrainer):
    """The Trainer with batches of similar length and marked checkpoints; it stops at a loss that is not finite."""

    def compute_loss(self, model: nn.Module, inputs: Any, *rest: Any, **named: Any) -> Any:
        """Compute the model's own loss."""
        result = super().compute_loss(model, inputs, *rest, **named)
        if not model.training:
            return result
        if not torch.isfinite(result):
            raise ModelError(
                f"the loss is {float(result.detach())} at step {self.state.global_step + 1}: lower the learning rate"
            )
        return self.share(inputs) * result

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return training batches of similar length."""
        return self.loader_by_length()


class _Collator:
    """Collates encoded examples to a batch, padded on the right whatever the tokenizer's setting."""

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
