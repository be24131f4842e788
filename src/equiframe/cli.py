"""The command line: one subcommand per verb, generated from its configuration. It parses, calls and prints only."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from cyclopts import App, CycloptsError, Group, MissingArgumentError, Parameter, UnusedCliTokensError
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from equiframe.choices import Shell
from equiframe.config import (
    AuditConfig,
    BenchmarksConfig,
    CardConfig,
    CompareConfig,
    DataOptions,
    DebiasConfig,
    EvaluateConfig,
    ExportConfig,
    PushConfig,
    RunConfig,
    ServeConfig,
    StudyConfig,
    read_config,
)
from equiframe.config.base import OUTPUT, READ, SILENT, misfit
from equiframe.config.groups import OF_AUDIT
from equiframe.errors import EquiframeError, InputError
from equiframe.printing import is_first_rank, make_console, print_json, print_table, progress_bars, show

app = App(
    name="equiframe",
    help="Measure, compare and reduce the social bias of language models.",
    help_format="plaintext",
    default_parameter=READ,
    group_commands=Group("Commands", sort_key=0),
    version=lambda: importlib.metadata.version("equiframe"),
)


def _output(help_text: str) -> Parameter:
    return Parameter(help=help_text, group=OUTPUT.group)


RunFolder: TypeAlias = Annotated[
    Path | None, SILENT, _output("Folder for the results, which must not exist yet. Default: runs/VERB-MODEL.")
]
Json: TypeAlias = Annotated[
    bool, SILENT, _output("Print only the result, as JSON, to standard output."), Parameter(name="--json")
]
Offline: TypeAlias = Annotated[
    bool, SILENT, _output("Download nothing: use only files on this machine. Same as HF_HUB_OFFLINE=1.")
]
Action: TypeAlias = Callable[..., None]


def _verb(kind: type[Any], example: str) -> Callable[[Action], Action]:
    """Make a subcommand from the name, options and help text of a configuration."""

    def added(action: Action) -> Action:
        app.command(action, name=kind.verb, help=inspect.getdoc(kind), help_epilogue=f"Example: equiframe {example}")
        return action

    return added


@_verb(AuditConfig, "audit builtin:mini-mlm --out runs/mini")
def audit(config: AuditConfig, *, out: RunFolder = None, offline: Offline = False, as_json: Json = False) -> None:
    """Audit one model."""
    _measure(config, out, offline, as_json)


@_verb(EvaluateConfig, "evaluate builtin:smollm2-135m --benchmarks stereoset,crows_pairs")
def evaluate(config: EvaluateConfig, *, out: RunFolder = None, offline: Offline = False, as_json: Json = False) -> None:
    """Score one model."""
    _measure(config, out, offline, as_json)


@_verb(DebiasConfig, "debias builtin:mini-mlm --method bec --unc3 100 --out runs/bec-unc3")
def debias(config: DebiasConfig, *, out: RunFolder = None, offline: Offline = False, as_json: Json = False) -> None:
    """Debias one model; the (U)NC3 term reads the states, and finds its words, as the audit does."""
    if config.audit is not None:
        of_audit = {name: getattr(config.audit, name) for name in OF_AUDIT}
        config = dataclasses.replace(config, unc3=dataclasses.replace(config.unc3, **of_audit))
    _measure(config, out, offline, as_json)


@_verb(CompareConfig, "compare runs/before runs/bec runs/bec-unc3 --out runs/comparison")
def compare(
    config: CompareConfig,
    *,
    out: Annotated[Path | None, SILENT, _output("Folder for the results. Default: only print the table.")] = None,
    as_json: Json = False,
) -> None:
    """Compare finished runs."""
    from equiframe.commands.compare import compare_folders

    with progress_bars(as_json) as tell:
        comparison = compare_folders(config.runs, out, seed=config.seed, progress=tell)
    show(comparison, out, as_json)


@app.command(help_epilogue="Example: equiframe gate runs/after --against runs/before --policy gate.yaml")
def gate(
    after: Annotated[Path | None, SILENT, _output("Folder of the finished run to judge.")] = None,
    *,
    against: Annotated[Path | None, SILENT, _output("Folder of the earlier run, for rules on changes.")] = None,
    policy: Annotated[Path | None, SILENT, _output("YAML file with the rules.")] = None,
    junit: Annotated[Path | None, SILENT, _output("JUnit XML file to write.")] = None,
    markdown: Annotated[Path | None, SILENT, _output("Markdown file to write, such as a GitHub job summary.")] = None,
    example: Annotated[bool, SILENT, _output("Print an example policy and exit.")] = False,
    as_json: Json = False,
) -> None:
    """Check a run against rules on its intervals: exit code 0 = passed, 1 = failed, 3 = could not be judged.

    Wrong use exits with code 2, as in every command. A rule fails if the whole interval is outside the limit. If the
    interval crosses the limit, or data is missing, the output says what would help.
    """
    from equiframe.gate import EXIT_CODES, Policy, example_policy, judge
    from equiframe.record import RunRecord
    from equiframe.report import gate as output

    if example:
        sys.stdout.write(example_policy())
        return
    if after is None or policy is None:
        raise InputError("the folder of a run and --policy FILE are required. equiframe gate --example prints a policy")
    before = None if against is None else RunRecord.read(against)
    judgement = judge(RunRecord.read(after), Policy.read(policy), before)
    if junit is not None:
        output.write(junit, output.junit(judgement))
    if markdown is not None:
        output.write(markdown, output.markdown(judgement))
    if as_json:
        print_json(judgement.model_dump(mode="json"))
    else:
        console = make_console()
        print_table(console, output.HEADERS, output.rows(judgement))
        for line in (*output.reasons(judgement), output.chance(judgement)):
            console.print(f"\n{line}", highlight=False)
        console.print(f"\n{output.conclusion(judgement)}", style="bold", highlight=False)
    raise SystemExit(EXIT_CODES[judgement.outcome])


@app.command(help_epilogue="Example: equiframe demo --out runs/demo")
def demo(
    *,
    out: Annotated[Path, _output("Folder for the results, which must not exist yet.")] = Path("runs/demo"),
    as_json: Json = False,
) -> None:
    """Audit, debias and compare a built-in masked LM: before, after CDA, and after CDA + counterfactual collapse."""
    from equiframe.commands.demo import demo as run_demo

    with progress_bars(as_json) as tell:
        comparison = run_demo(out, tell)
    show(comparison, out, as_json)


@_verb(StudyConfig, "study recipes/study_mini.yaml --out runs/study")
def study(
    file: Annotated[Path, _output("YAML file with the models, methods, seeds and benchmarks of the study.")],
    *,
    out: Annotated[Path, _output("Folder of the study. Finished cells in it are kept.")] = Path("runs/study"),
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Run a study file."""
    _study(read_config(file, kind=StudyConfig), out, offline, as_json)


@app.command(help_epilogue="Example: equiframe run my-run.yaml --out runs/mine")
def run(
    file: Annotated[
        Path, _output("YAML file with a verb (audit, evaluate, debias, compare or study) and its options.")
    ],
    *,
    out: Annotated[Path | None, SILENT, _output("Folder for the results. Default: as for the verb.")] = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Run what a YAML file describes: a verb and its options."""
    config = read_config(file)
    if isinstance(config, StudyConfig):
        _study(config, out or Path("runs/study"), offline, as_json)
    elif isinstance(config, CompareConfig):
        compare(config, out=out, as_json=as_json)
    else:
        _measure(config, out, offline, as_json)


@_verb(CardConfig, "card runs/bec --before runs/before")
def card(config: CardConfig) -> None:
    """Write the card of one run."""
    from equiframe.commands.publish import write_card

    sys.stdout.write(f"{write_card(config.run, config.out, before=config.before)}\n")


@_verb(ExportConfig, "export runs/bec --layout lm-eval --out results.json")
def export(config: ExportConfig) -> None:
    """Export one run."""
    from equiframe.commands.publish import export as write_export

    write_export(config.run, config.layout, config.out)
    sys.stdout.write(f"{config.out}\n")


@_verb(PushConfig, "push runs/bec your-name/bert-bec")
def push(config: PushConfig) -> None:
    """Push one model."""
    from equiframe.commands.publish import push as push_model

    sys.stdout.write(f"{push_model(config.run, config.repository, public=config.public)}\n")


@_verb(ServeConfig, "serve runs")
def serve(config: ServeConfig = ServeConfig()) -> None:
    """Serve a folder of runs."""
    from equiframe.commands.serve import application, listen

    listen(application(config.runs), config.host, config.port, lambda address: print(address, flush=True))  # noqa: T201


@_verb(BenchmarksConfig, "benchmarks --data my-data")
def list_benchmarks(config: BenchmarksConfig = BenchmarksConfig(), *, as_json: Json = False) -> None:
    """List the benchmarks."""
    from equiframe.benchmarks.registry import listing

    rows = listing(config.data)
    if as_json:
        print_json(rows)
        return
    console = make_console()
    table = Table("benchmark", "suite", "data", "measures", box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(str(row[key]) for key in ("name", "suite", "data", "about")))
    console.print(table)


@app.command(help_epilogue="Example: equiframe completion bash > ~/.local/share/bash-completion/completions/equiframe")
def completion(shell: Annotated[Shell, _output("Shell to complete commands in.")]) -> None:
    """Print a script that completes commands and options in your shell."""
    sys.stdout.write(app.generate_completion(shell=shell))


data_app = App(name="data", help="List or download the data files of the benchmarks.")
app.command(data_app)


@data_app.command(name="list", help_epilogue="Example: equiframe data list")
def list_data(options: DataOptions = DataOptions(), *, as_json: Json = False) -> None:
    """List every data file with its source and licence, and whether it is on this machine."""
    from equiframe.data.known import KNOWN
    from equiframe.data.sources import is_here, origin_of

    rows = [
        {
            "name": name,
            "here": "yes" if is_here(name, options.data) else "no",
            "origin": origin_of(name, options.data),
            "licence": known.licence,
            "citation": known.citation,
        }
        for name, known in KNOWN.items()
    ]
    if as_json:
        print_json(rows)
        return
    table = Table(*rows[0], box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*row.values())
    make_console().print(table)


@data_app.command(name="get", help_epilogue="Example: equiframe data get seat hurtlex/EN --into my-data")
def get_data(
    names: Annotated[tuple[str, ...], SILENT, _output("Names of files, or of groups such as seat or glue/CoLA.")] = (),
    *,
    everything: Annotated[bool, SILENT, _output("Download every known file."), Parameter(name="--all")] = False,
    into: Annotated[Path | None, SILENT, _output("Folder to copy the files to, in the layout of --data.")] = None,
) -> None:
    """Download data files and check each against its known hash."""
    from equiframe.data.known import KNOWN, known_names
    from equiframe.data.sources import copied, locate

    if bool(names) == everything:
        raise InputError("name the files or groups to download, or give --all. equiframe data list shows them")
    for name in known_names(names):
        located = locate(name)
        path = located.path if into is None else copied(located, into / KNOWN[name].path)
        make_console().print(f"{name}: {path} ({located.file.licence})", highlight=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: an error is one line that says what to do, with exit code 2; Ctrl-C exits with 130, as in shells.

    A defect of the program exits with 70, never with 1, which is the code of a gate that failed.

    Args:
        arguments: the words after ``equiframe``; by default those of this process.
    """
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # it logs each retry, and the error says the same once
    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
    try:
        command, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
        command(*bound.args, **bound.kwargs)
    except (EquiframeError, CycloptsError) as error:
        console.print("error:", style="bold red", end=" ")
        console.print(_said(error))
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        console.print("Interrupted. Run the same command again to resume.")
        raise SystemExit(130) from None
    except Exception:
        traceback.print_exc()
        console.print("This is a defect of equiframe. Please report it with the lines above.")
        raise SystemExit(70) from None


def _said(error: EquiframeError | CycloptsError) -> str:
    """The error in one line; an error raised by our own classes keeps their words."""
    cause = error.__cause__
    if isinstance(error, EquiframeError):
        return str(error)
    if isinstance(cause, EquiframeError):
        return str(cause)
    if isinstance(cause, ValidationError) and error.argument is not None:
        return misfit(error.argument.name, cause)
    said = str(error)
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        said = f"{error.keyword or error.argument.name} needs a value."
    elif isinstance(error, UnusedCliTokensError):
        said = f"too many values: {' '.join(error.unused_tokens or ())}."
    return f"{said} See {' '.join(['equiframe', *(error.command_chain or ())])} --help"


def _measure(config: RunConfig, out: Path | None, offline: bool, as_json: bool) -> None:
    _go_offline(offline)
    from equiframe.commands.run import run
    from equiframe.record import file_name

    out = out or Path("runs") / file_name(f"{config.verb}-{config.model}")
    with progress_bars(as_json) as tell:
        record = run(config, out, tell)
    if not is_first_rank():
        return
    show(record.metrics, out, as_json)
    for name, reason in record.provenance.left_out.items():
        sys.stderr.write(f"{name} was skipped: {reason}\n")


def _go_offline(offline: bool) -> None:
    """Switch downloads off, before the libraries that read the variable are imported."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"


def _study(config: StudyConfig, out: Path, offline: bool, as_json: bool) -> None:
    _go_offline(offline)
    from equiframe.commands.study import run_study
    from equiframe.report import study_tables

    with progress_bars(as_json) as tell:
        result = run_study(config, out, tell)
    if result is None:
        sys.stderr.write("Every cell is finished or in progress. The last process to finish writes the tables.\n")
    elif as_json:
        print_json(result.model_dump(mode="json"))
    else:
        console = make_console()
        for caption, table in study_tables(result).items():
            console.print(f"\n{caption}", style="bold")
            print_table(console, list(table.columns), table.to_numpy().tolist())
        console.print(f"{out / 'report.html'}", highlight=False)
