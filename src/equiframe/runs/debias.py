"""Fine-tune one model by one method, with or without (U)NC3."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PrinterCallback, set_seed

from equiframe.collapse import UNC3Regularizer
from equiframe.config import AuditOptions, FineTuning, UNC3Options
from equiframe.data import DataFile, stream
from equiframe.errors import InputError
from equiframe.methods import Method, Projection, WithCounterfactuals, WithUNC3, balanced_weight
from equiframe.models import LanguageModel
from equiframe.models.adapter import classifier
from equiframe.models.encoding import check_length
from equiframe.models.projected import project
from equiframe.runs.audit import collapse_of_words
from equiframe.runs.record import TrainingResult
from equiframe.training import DebiasingTrainer
from equiframe.training.arguments import training_arguments
from equiframe.training.trainer import Progress
from equiframe.words import ResolvedWords, WordSet

_BALANCED_BATCHES = 16
_LAST_STEPS = 10


@dataclass(frozen=True)
class AddedTerms:
    """Terms of counterfactual collapse beside a method, see :class:`equiframe.methods.WithCounterfactuals`.

    Args:
        method: which terms, on which pairs.
        weight: of all of them together, above 0.
    """

    method: Method
    weight: float = 1.0


@dataclass(frozen=True)
class Debiased:
    """What fine-tuning gave: the model, its summary, the logged steps, and the files it read."""

    language_model: LanguageModel
    result: TrainingResult
    history: pd.DataFrame
    files: tuple[DataFile, ...]


def debias(
    language_model: LanguageModel,
    method: Method | Projection,
    unc3: UNC3Options,
    fine_tuning: FineTuning,
    words: ResolvedWords,
    checkpoints: Path,
    *,
    added: AddedTerms | None = None,
    claim: Callable[[Mapping[str, Any]], None] = lambda read: None,
    audit: AuditOptions | None = None,
    folder: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Debiased:
    """Fine-tune or project a model, in place. A complete checkpoint in ``checkpoints`` is continued.

    Args:
        language_model: the model; its weights change.
        method: the debiasing method.
        unc3: the term; weight 0 leaves the host method as it is, to the bit.
        fine_tuning: how long and how fast.
        words: the term's words under the model's tokenizer.
        checkpoints: folder of the Trainer's checkpoints.
        added: terms of counterfactual collapse beside the method's own loss, on half as many pairs as the method has
            examples in a batch, so on as many texts.
        claim: called before ``checkpoints`` is read, with what was read besides model and options: hashes of the
            training data by name, the term's words, and how collapse is measured, where it is.
        audit: how collapse is measured every ``fine_tuning.audit_steps``, the defaults by default.
        folder: where the user keeps data files.
        progress: called with steps done and steps in all.

    Raises:
        InputError: options that cannot work together, or examples too short for one token.
        ModelError: the loss is not finite.
    """
    if isinstance(method, Projection):
        if added is not None:
            raise InputError(f"{method.name} trains nothing, so there is no loss to add terms to: leave out --cc")
        return _project(language_model, method, unc3, fine_tuning, folder)
    model, device = language_model.model, language_model.device
    settings = method.settings
    arguments = training_arguments(fine_tuning, checkpoints, settings, device)
    max_length = min(fine_tuning.max_length or settings.max_length, language_model.window)
    check_length(language_model, max_length, option="--max-length")
    dataset, files = method.training_data(language_model, folder=folder, max_length=max_length, seed=arguments.seed)
    audit = audit or AuditOptions()
    read: dict[str, Any] = {"data": {file.name: file.sha256 for file in files}}
    pairs: Dataset | None = None
    if added is not None:
        pairs, more = _pairs(language_model, added.method, fine_tuning, folder, arguments.seed)
        read["pairs"] = {file.name: file.sha256 for file in more}
        files = (*files, *more)
    if unc3.weight:
        read["unc3_words"] = words.token_ids
    if fine_tuning.audit_steps:
        texts = {file.name: file.sha256 for file in stream(audit.text, folder).files}
        read["audit"] = {**dataclasses.asdict(audit), "words": WordSet.load(audit.words).words, **texts}
    claim(read)
    set_seed(arguments.seed)
    objective = method.objective(language_model, dataset, pairing=unc3.pairing, feature=unc3.feature)
    collator = method.collator(language_model)
    if added is not None and pairs is not None:
        objective = WithCounterfactuals(
            objective,
            added.method.objective(language_model, pairs, pairing=unc3.pairing, feature=unc3.feature),
            pairs,
            added.method.collator(language_model),
            weight=added.weight,
            batch_size=max(1, arguments.per_device_train_batch_size // 2),
            seed=arguments.seed,
        )
    weight = 0.0
    if unc3.weight:
        if fine_tuning.lora_rank and not unc3.through_features:
            raise InputError(
                "with --lora the word embeddings are frozen, and (U)NC3 would have no gradient: add"
                " --unc3-through-features, or leave out --lora"
            )

        def regularizer(weight: float) -> UNC3Regularizer:
            term = UNC3Regularizer(
                torch.tensor(words.token_ids),
                classifier(model).shape[1],
                weight=weight,
                warmup_steps=unc3.warmup_steps,
                memory=unc3.memory,
                decay=unc3.decay,
                through_features=unc3.through_features,
            )
            return term.to(device)

        if unc3.weight == "auto":
            batches = _first_batches(dataset, collator, arguments.per_device_train_batch_size, device)
            weight = balanced_weight(objective.to(device), regularizer(1.0), model, batches)
            set_seed(arguments.seed)
        else:
            weight = unc3.weight
        objective = WithUNC3(objective, regularizer(weight))
    configured = dict(vars(model.config))
    trained = _with_lora(model, fine_tuning.lora_rank) if fine_tuning.lora_rank else model
    trainer = DebiasingTrainer(
        objective=objective,
        model=trained,
        args=arguments,
        train_dataset=dataset,
        data_collator=collator,
        callbacks=[Progress(progress)] if progress is not None else [],
        watch=functools.partial(collapse_of_words, language_model, audit, folder=folder),
        watch_steps=fine_tuning.audit_steps,
    )
    trainer.remove_callback(PrinterCallback)
    began = time.perf_counter()
    trainer.train_on()
    model = trainer.whole_model().to(device)
    vars(model.config).pop("use_cache", None)  # the Trainer switches it off, and generation would be slow ever after
    if "use_cache" in configured:
        model.config.use_cache = configured["use_cache"]
    seconds = time.perf_counter() - began
    history = pd.DataFrame(trainer.history)
    if fine_tuning.lora_rank:
        model = model.merge_and_unload()
    return Debiased(
        language_model=dataclasses.replace(language_model, model=model.eval()),
        result=TrainingResult(
            method=method.name if added is None else f"{method.name} + {added.method.name}",
            unc3_weight=weight,
            steps=trainer.state.global_step,
            seconds=seconds,
            final_loss=float(history["loss"].tail(_LAST_STEPS).mean()),
        ),
        history=history,
        files=files,
    )


def _pairs(
    language_model: LanguageModel, terms: Method, fine_tuning: FineTuning, folder: Path | None, seed: int
) -> tuple[Dataset, tuple[DataFile, ...]]:
    """The pairs that added terms read beside a host's batches, and the files they come from."""
    max_length = min(fine_tuning.max_length or terms.settings.max_length, language_model.window)
    return terms.training_data(language_model, folder=folder, max_length=max_length, seed=seed)


def _project(
    language_model: LanguageModel, method: Projection, unc3: UNC3Options, fine_tuning: FineTuning, folder: Path | None
) -> Debiased:
    """Put a projection on the model's last states; nothing is trained."""
    if unc3.weight:
        raise InputError(f"{method.name} trains nothing, so there is no loss to add a term to: leave out --unc3")
    began = time.perf_counter()
    fitted = method.projection(
        language_model, folder=folder, seed=method.seed if fine_tuning.seed is None else fine_tuning.seed
    )
    project(language_model.model, fitted.matrix)
    return Debiased(
        language_model=language_model,
        result=TrainingResult(
            method=method.name,
            unc3_weight=0.0,
            steps=len(fitted.history),
            seconds=time.perf_counter() - began,
            final_loss=None,
        ),
        history=pd.DataFrame(fitted.history),
        files=fitted.files,
    )


def _first_batches(dataset: Dataset, collator: Any, size: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
    """Examples spread evenly over the data, as batches."""
    chosen = dataset.select(range(0, len(dataset), max(1, len(dataset) // (size * _BALANCED_BATCHES))))
    for start in range(0, min(len(chosen), size * _BALANCED_BATCHES), size):
        batch = collator(chosen.select(range(start, min(start + size, len(chosen)))).to_list())
        yield {name: tensor.to(device) for name, tensor in batch.items()}


def _with_lora(model: Any, rank: int) -> Any:
    """The model with LoRA adapters on its linear layers (the output embedding is left alone)."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise InputError("--lora needs peft: pip install 'equiframe[lora]'") from error
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))
