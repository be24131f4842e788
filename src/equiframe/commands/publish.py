"""Publishing of a finished run: its model card, its numbers in other tools' formats, its model on the Hub."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.repocard_data import eval_results_to_model_index

from equiframe.analysis.comparison import compare
from equiframe.choices import Layout
from equiframe.errors import InputError, RunError
from equiframe.files import written_whole
from equiframe.models.saving import READ_BY_TRANSFORMERS, README
from equiframe.options import check_choice
from equiframe.record import RunRecord
from equiframe.report.card import eval_results, lm_eval_results, model_card


def write_card(run: Path | str, out: Path | str | None = None, *, before: Path | str | None = None) -> Path:
    """Write a run's model card.

    Args:
        run: folder of a finished run.
        out: the file; by default README.md next to the run's model, or in the run's folder if it has none.
        before: folder of a run of the original model, for the paired changes.

    Returns:
        The file.

    Raises:
        RunError: there is no such run, the file exists, or it cannot be written.
        InputError: the two runs share no measure, or ``before`` is a run of another model.
    """
    run = Path(run)
    record = RunRecord.read(run)
    file = Path(out) if out else (run / "model" if (run / "model").is_dir() else run) / README
    _refuse_existing(file)
    comparison = None
    if before is not None:
        original = RunRecord.read(before)
        _check_original(original, record, before)
        comparison = compare({"before": original, "after": record})
    _write_new(file, model_card(record, comparison))
    return file


def _check_original(original: RunRecord, record: RunRecord, folder: Path | str) -> None:
    """Refuse a run of another model than that from which a model was made, because a card tells the changes to it."""
    start, model = record.provenance.model_before, record.provenance.model
    if start in (None, original.metrics.model.fingerprint):
        return
    # the same model in another precision has another fingerprint, but its name, and was not trained
    if original.metrics.training is not None or original.provenance.model != model:
        raise InputError(f"--before {folder} is not a run of the original model. Give one of {model}")


def export(run: Path | str, layout: Layout, out: Path | str) -> None:
    """Write a run's numbers in the format of another tool.

    Args:
        run: folder of a finished run.
        layout: ``lm-eval``, the JSON results of lm-evaluation-harness; ``model-index``, YAML for a model card.
        out: the file.

    Raises:
        RunError: there is no such run, the file exists, or it cannot be written.
    """
    check_choice("--layout", layout, Layout)
    record = RunRecord.read(run)
    if layout == "lm-eval":
        text = json.dumps(lm_eval_results(record), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    else:
        index = eval_results_to_model_index(record.metrics.model.name, eval_results(record))
        text = yaml.safe_dump({"model-index": index}, sort_keys=False, allow_unicode=True)
    _write_new(Path(out), text)


def push(run: Path | str, repository: str, *, public: bool = False) -> str:
    """Upload a run's model to the Hugging Face Hub, with its card, which is written first if there is none.

    Args:
        run: folder of a finished ``debias`` run.
        repository: name of the repository, such as ``your-name/model-name``; it is created if it is missing.
        public: whether a new repository is public.

    Returns:
        The address of the repository.

    Raises:
        RunError: the run has no model, or the Hub refuses the upload.
    """
    folder = Path(run) / "model"
    if not folder.is_dir():
        raise RunError(f"{run} has no model: only models that equiframe debias made can be pushed")
    if _is_free(folder / README):
        write_card(run)
    hub = HfApi()
    try:
        url = hub.create_repo(repository, private=not public, exist_ok=True)
        hub.upload_folder(repo_id=repository, folder_path=folder, commit_message="Model and card, by equiframe")
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunError(f"{repository}: {reason}; to log in, run: hf auth login") from error
    return str(url)


def _is_free(file: Path) -> bool:
    """Whether the file is missing, or was written by equiframe with the model and is superseded by a card."""
    return not file.exists() or (file.is_file() and file.read_bytes() == READ_BY_TRANSFORMERS.encode())


def _refuse_existing(file: Path) -> None:
    try:
        if not _is_free(file):
            raise RunError(f"{file} exists: choose another --out, or remove it first")
    except OSError as error:
        raise RunError(f"{file}: cannot be read ({error.strerror})") from error


def _write_new(file: Path, text: str) -> None:
    """Write a new file, under a temporary name first; an existing file is not replaced."""
    _refuse_existing(file)
    try:
        with written_whole(file) as scratch:
            scratch.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunError(f"{file}: cannot be written ({error.strerror})") from error
