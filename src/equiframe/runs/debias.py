"""Fine-tune one model by one method, with or without (U)NC3."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate.utils.memory import clear_device_cache
from datasets import Dataset
from transformers import PrinterCallback, TrainingArguments, set_seed

from equiframe.config import AuditOptions, FineTuning, UNC3Options
from equiframe.config.groups import check_gradient
from equiframe.data import AnySource, DataFile, DataSource, stream
from equiframe.errors import InputError
from equiframe.methods import Method, Projection, what_it_does
from equiframe.models import LanguageModel
from equiframe.models.encoding import check_length
from equiframe.models.peft_adapter import is_quantised
from equiframe.models.projected import fold, project
from equiframe.record import TrainingResult
from equiframe.runs.audit import collapse_of_words
from equiframe.runs.evaluate import Watched
from equiframe.runs.terms import AddedTerms, with_pairs, with_term
from equiframe.training import DebiasingTrainer
from equiframe.training.arguments import training_arguments
from equiframe.training.trainer import Progress
from equiframe.words import ResolvedWords, WordSet

_LAST_STEPS = 10
_STEPS_WATCHED = 50  # steps between two scores during training, by default


@dataclass(frozen=True)
class Debiased:
    """The result of fine-tuning: the model, its summary, the logged steps, and the files that it read."""

    language_model: LanguageModel
    result: TrainingResult
    history: pd.DataFrame
    files: tuple[DataFile, ...]


def debias(
    language_model: LanguageModel,
    method: Method | Projection,
    unc3: UNC3Options,
    fine_tuning: FineTuning,
    words: ResolvedWords | None,
    checkpoints: Path,
    *,
    added: AddedTerms | None = None,
    claim: Callable[[Mapping[str, Any]], None] = lambda read: None,
    audit: AuditOptions | None = None,
    watched: Watched | None = None,
    source: AnySource = None,
    progress: Callable[[int, int], None] | None = None,
) -> Debiased:
    """Fine-tune or project a model, in place, starting from a complete checkpoint in ``checkpoints`` if there is one.

    Args:
        language_model: the model; its weights change.
        method: the debiasing method.
        unc3: the term; with weight 0 the host method is unchanged, to the bit.
        fine_tuning: the length and speed of training.
        words: the term's words under the model's tokenizer; not needed without the term.
        checkpoints: folder of the Trainer's checkpoints.
        added: terms of counterfactual collapse in addition to the method's own loss, on half as many pairs as the
            method has examples in a batch, so on as many texts.
        claim: function that is called before ``checkpoints`` is read, with everything that was read except model and
            options: hashes of the training data by name, the term's words, and how collapse is measured, if it is.
        audit: how collapse is measured every ``fine_tuning.audit_steps``; by default with the default options.
        watched: benchmarks that are scored as often, or every 50 steps if ``fine_tuning.audit_steps`` is 0.
        source: the source of data files: a folder, or ``hub:OWNER/NAME``; by default the data wheel.
        progress: called with the steps done so far, and the number of all steps.

    Raises:
        InputError: options cannot be combined, weights are quantised or spread, or examples are too short for a token.
        ModelError: the loss is not finite.
    """
    source, audit = DataSource.of(source), audit or AuditOptions()
    _check_weights(language_model, method)
    if isinstance(method, Projection):
        check_untrained(method, unc3, fine_tuning, {"--cc": added, "--watch": watched})
        claim({})
        return _project(language_model, method, fine_tuning.seed, source)
    check_gradient(unc3, fine_tuning)
    if unc3.weight and words is None:
        raise InputError("(U)NC3 has a weight, but no words: give them as the model's tokenizer reads them")
    adapters = _adapters(fine_tuning.lora_rank)
    arguments = training_arguments(fine_tuning, checkpoints, method.settings, language_model.device)
    examples = functools.partial(_examples, language_model, fine_tuning, source, arguments.seed)
    dataset, files = examples(method)
    pairs, of_pairs = (None, ()) if added is None else examples(added.method)
    audited = audit if fine_tuning.audit_steps else None
    read = _identity(files, of_pairs, words if unc3.weight else None, audited, source)
    claim(read if watched is None else {**read, "watch": watched.identity})
    set_seed(arguments.seed)
    objective = method.objective(language_model, dataset, pairing=unc3.pairing, feature=unc3.feature)
    collator, weight = method.collator(language_model), 0.0
    if added is not None and pairs is not None:
        objective = with_pairs(objective, added, language_model, pairs, unc3, arguments)
    if unc3.weight and words is not None:
        objective, weight = with_term(objective, language_model, unc3, words, dataset, collator, arguments)
    begun = time.perf_counter()
    model, history = _train(
        language_model.model,
        adapters,
        objective=objective,
        args=arguments,
        train_dataset=dataset,
        data_collator=collator,
        callbacks=[] if progress is None else [Progress(progress)],
        watch=functools.partial(_watch, language_model, audited, watched, source),
        watch_steps=fine_tuning.audit_steps or (0 if watched is None else _STEPS_WATCHED),
    )
    seconds = time.perf_counter() - begun
    del objective  # it may hold a second model
    clear_device_cache(garbage_collection=True)  # the Trainer refers to itself, and holds the optimizer's moments
    return Debiased(
        language_model=dataclasses.replace(language_model, model=model.eval()),
        result=TrainingResult(
            **_told(method, added),
            settings=_settings(language_model, arguments, _longest(language_model, fine_tuning, method)),
            unc3_weight=weight,
            steps=int(history["step"].iloc[-1]),
            seconds=seconds,
            final_loss=float(history["loss"].tail(_LAST_STEPS).mean()),
        ),
        history=history,
        files=(*files, *of_pairs),
    )


def _watch(
    language_model: LanguageModel, audit: AuditOptions | None, watched: Watched | None, source: DataSource
) -> dict[str, float]:
    """The numbers that are recorded during training, by name."""
    numbers: dict[str, float] = {}
    if audit is not None:
        collapse = collapse_of_words(language_model, audit, source=source)
        numbers |= {f"collapse/{key}": value for key, value in collapse.items()}
    if watched is not None:
        numbers |= {f"bias/{key}": value for key, value in watched.values(language_model).items()}
    return numbers


def _check_weights(language_model: LanguageModel, method: Method | Projection) -> None:
    """Refuse weights that cannot be changed."""
    if is_quantised(language_model.model):
        raise InputError(
            f"{language_model.name} is quantised, but {method.name} changes weights: debias the original model,"
            " and quantise the result"
        )
    if isinstance(method, Projection):
        return
    if language_model.is_spread:
        raise InputError(
            "--device-map spreads the weights over several devices, but fine-tuning needs them on one: leave it"
            " out, and try --lora, or shard the weights with recipes/accelerate/fsdp.yaml"
        )
    if language_model.model.dtype == torch.float16:
        raise InputError("--dtype float16 is too coarse for fine-tuning: leave it out, or give bfloat16")


def _examples(
    language_model: LanguageModel, fine_tuning: FineTuning, source: DataSource, seed: int, method: Method
) -> tuple[Dataset, tuple[DataFile, ...]]:
    """Return the examples of a method, and the files that they come from."""
    max_length = _longest(language_model, fine_tuning, method)
    check_length(language_model, max_length, option="--max-length")
    return method.training_data(language_model, source=source, max_length=max_length, seed=seed)


def _longest(language_model: LanguageModel, fine_tuning: FineTuning, method: Method) -> int:
    """The number of tokens of the longest example: as given, or else as published if the model can read so many."""
    return fine_tuning.max_length or min(method.settings.max_length, language_model.window)


def _settings(language_model: LanguageModel, arguments: TrainingArguments, max_length: int) -> dict[str, Any]:
    """The settings of fine-tuning that were used, for the record."""
    whole = "bf16 weights" if language_model.model.dtype == torch.bfloat16 else "fp32"
    return {
        "learning_rate": arguments.learning_rate,
        "batch_size": arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size,
        "max_length": max_length,
        "seed": arguments.seed,
        "precision": "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else whole,
    }


def _identity(
    files: Iterable[DataFile],
    of_pairs: Iterable[DataFile],
    words: ResolvedWords | None,
    audit: AuditOptions | None,
    source: DataSource,
) -> dict[str, Any]:
    """Everything that training depends on except model and options."""
    read: dict[str, Any] = {"data": {file.name: file.sha256 for file in files}}
    if pairs := {file.name: file.sha256 for file in of_pairs}:
        read["pairs"] = pairs
    if words is not None:
        read["unc3_words"] = words.token_ids
    if audit is not None:
        texts = {file.name: file.sha256 for file in stream(audit.text, source).files}
        read["audit"] = {**dataclasses.asdict(audit), "words": WordSet.load(audit.words).words, **texts}
    return read


def _train(model: Any, adapters: Any, **arguments: Any) -> tuple[Any, pd.DataFrame]:
    """Train with the arguments of the Trainer; return the model with its own configuration, and the logged steps."""
    configured, device = dict(vars(model.config)), model.device
    if adapters is not None:
        from peft import get_peft_model

        model = get_peft_model(model, adapters)
    trainer = DebiasingTrainer(model=model, **arguments)
    trainer.remove_callback(PrinterCallback)
    trainer.train_on()
    model = trainer.whole_model().to(device)
    vars(model.config).pop("use_cache", None)  # the Trainer switches it off, which would make generation slow
    if "use_cache" in configured:
        model.config.use_cache = configured["use_cache"]
    if adapters is not None:
        model = model.merge_and_unload()
    fold(model)
    return model, pd.DataFrame(trainer.history)


def check_untrained(
    method: Projection, unc3: UNC3Options, fine_tuning: FineTuning, others: Mapping[str, object]
) -> None:
    """Refuse options of training, because a projection trains nothing; it has only the seed.

    Args:
        method: the projection.
        unc3: the term.
        fine_tuning: the length and speed of training.
        others: further options of training by name; an empty value means that the option was not given.

    Raises:
        InputError: an option was given.
    """
    options = [name for name, value in {"--unc3": unc3.weight, **others}.items() if value]
    options += fine_tuning.given(without=("seed",))
    if options:
        raise InputError(f"{method.name} projects states and trains nothing, so leave out {', '.join(options)}")


def _project(language_model: LanguageModel, method: Projection, seed: int | None, source: DataSource) -> Debiased:
    """Project a model's last states; nothing is trained."""
    began = time.perf_counter()
    fitted = method.projection(language_model, source=source, seed=method.seed if seed is None else seed)
    project(language_model.model, fitted.matrix)
    return Debiased(
        language_model=language_model,
        result=TrainingResult(
            **_told(method),
            outcome=fitted.outcome,
            unc3_weight=0.0,
            steps=len(fitted.history),
            seconds=time.perf_counter() - began,
            final_loss=None,
        ),
        history=pd.DataFrame(fitted.history),
        files=fitted.files,
    )


def _told(method: Method | Projection, added: AddedTerms | None = None) -> dict[str, Any]:
    """Describe for the record how a model was changed: the method, its options, and the terms added to it."""
    told: dict[str, Any] = {"method": method.name, "does": what_it_does(method), "options": _options(method)}
    if added is not None:
        told["method"] += f" + {added.method.name}"
        does = what_it_does(added.method)
        told["does"] += (
            f" Its loss also has the terms of {added.method.name} (weight {added.weight:g}), which"
            f" {does[:1].lower()}{does[1:]}"
        )
        told["options"] |= {"cc": added.weight, **{f"cc {key}": value for key, value in _options(added.method).items()}}
    return told


def _options(method: Method | Projection) -> dict[str, Any]:
    """All options of a method, as they are stored in the record."""
    given = dataclasses.asdict(method) if dataclasses.is_dataclass(method) else vars(method)
    found: dict[str, Any] = json.loads(json.dumps(given, default=str))
    return found


def _adapters(rank: int) -> Any:
    """The configuration of LoRA adapters on all linear layers (the output embedding is left alone); None for rank 0."""
    if not rank:
        return None
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise InputError("--lora needs peft: pip install 'equiframe[lora]'") from error
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
