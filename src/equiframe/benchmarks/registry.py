"""Benchmarks by name and by suite, and whether their data is available."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from equiframe.benchmarks.benchmark import Benchmark, Scored
from equiframe.benchmarks.fine_tuned import FineTunedBenchmark
from equiframe.benchmarks.generated import GeneratedBenchmark
from equiframe.benchmarks.minimal_pairs import MinimalPairs
from equiframe.choices import Suite
from equiframe.data import KNOWN, AnySource
from equiframe.data.sources import origin_of
from equiframe.errors import InputError
from equiframe.plugins import entry_points, is_place, load_class


@dataclass(frozen=True)
class Registered:
    """Where the class of a benchmark is, and which suite it belongs to.

    Args:
        place: module and class, imported on first use.
        suite: fairness (bias) or nlu (language understanding).
        data: known files of the default variant; a name that ends with a slash stands for all files below it.
        arguments: arguments of the class, if one class implements several benchmarks.
        fine_tunes: whether the model is fine-tuned before it is measured.
        generates: whether the model writes text; such a benchmark belongs to the suite ``generation`` alone.
        hub: whether a dataset of the Hub is used unless the user's folder has the files.
    """

    place: str
    suite: Literal["fairness", "nlu"] = "fairness"
    data: tuple[str, ...] = ()
    arguments: Mapping[str, str] = field(default_factory=dict)
    fine_tunes: bool = False
    generates: bool = False
    hub: bool = False

    def files(self) -> list[str]:
        """Names of the known files."""
        below = tuple(name for name in self.data if name.endswith("/"))
        return [name for name in KNOWN if name in self.data or name.startswith(below)]


_HERE = "equiframe.benchmarks"
_TUNED = "equiframe.finetuned"
_GENERATED = "equiframe.generation"


def _glue(task: str, *data: str) -> Registered:
    return Registered(f"{_TUNED}.glue:GLUE", "nlu", data, {"task": task}, fine_tunes=True, hub=True)


def _by_generation(place: str, *data: str) -> Registered:
    return Registered(f"{_GENERATED}.{place}", "fairness", data, generates=True)


BENCHMARKS: dict[str, Registered] = {
    **{name: Registered(place) for name, place in entry_points("equiframe.benchmarks").items()},
    "stereoset": Registered(f"{_HERE}.stereoset:StereoSet", "fairness", ("stereoset/test",)),
    "stereoset_intersentence": Registered(
        f"{_HERE}.stereoset_intersentence:StereoSetIntersentence", "fairness", ("stereoset/dev",)
    ),
    "crows_pairs": Registered(f"{_HERE}.crows_pairs:CrowSPairs", "fairness", ("crows_pairs",)),
    "aul": Registered(f"{_HERE}.aul:AUL", "fairness", ("crows_pairs",)),
    "redditbias": Registered(
        f"{_HERE}.redditbias:RedditBias",
        "fairness",
        tuple(name for name in KNOWN if name.startswith("redditbias/") and name.endswith("/test")),
    ),
    "bec_pro": Registered(f"{_HERE}.bec_pro:BECPro", "fairness", ("bec_pro/en",)),
    "winobias_pronoun": Registered(
        f"{_HERE}.winobias:WinoBiasPronoun",
        "fairness",
        tuple(f"winobias/type{kind}/{side}/dev" for kind in (1, 2) for side in ("pro", "anti")),
    ),
    "winogender": Registered(f"{_HERE}.winogender:Winogender", "fairness", ("winogender/",)),
    "lpbs": Registered(
        f"{_HERE}.lpbs:LPBS",
        "fairness",
        ("winobias/female_occupations", "winobias/male_occupations", "winogender/statistics"),
    ),
    "seat": Registered(
        f"{_HERE}.seat:SEAT",
        "fairness",
        (
            "seat/sent-angry_black_woman_stereotype",
            "seat/sent-angry_black_woman_stereotype_b",
            *tuple(f"seat/sent-weat{test}" for test in ("3", "3b", "4", "5", "5b", "6", "6b", "7", "7b", "8", "8b")),
            *tuple(f"seat/sent-religion{test}" for test in ("1", "1b", "2", "2b")),
        ),
    ),
    "bbq": Registered(f"{_HERE}.bbq:BBQ", "fairness", ("bbq/",)),
    "unqover": Registered(f"{_HERE}.unqover:UnQover", "fairness", ("unqover/",)),
    "honest": Registered(f"{_HERE}.honest:HONEST", "fairness", ("honest/en", "hurtlex/EN")),
    "winobias_coreference": Registered(
        f"{_TUNED}.coreference:WinoBiasCoreference",
        "fairness",
        ("winobias/type1/", "winobias/type2/", "winobias/female_occupations", "winobias/male_occupations", "gap/"),
        fine_tunes=True,
    ),
    "bias_nli": Registered(f"{_TUNED}.bias_nli:BiasNLI", "fairness", ("bias_nli/",), fine_tunes=True, hub=True),
    "bias_in_bios": Registered(f"{_TUNED}.bias_in_bios:BiasInBios", "fairness", (), fine_tunes=True, hub=True),
    "agreement": Registered(f"{_HERE}.agreement:Agreement", "nlu", ("gap/validation",)),
    "lm_loss": Registered(f"{_HERE}.language_modelling:LanguageModelLoss", "nlu", ("gap/validation",)),
    "blimp": Registered(f"{_HERE}.blimp:BLiMP", "nlu", ("blimp/",)),
    "cola": _glue("cola", "glue/CoLA/train", "glue/CoLA/dev"),
    "sst2": _glue("sst2", "glue/SST-2/train", "glue/SST-2/dev"),
    "mrpc": _glue("mrpc"),
    "stsb": _glue("stsb", "glue/STS-B/train", "glue/STS-B/dev"),
    "qqp": _glue("qqp"),
    "mnli": _glue("mnli"),
    "qnli": _glue("qnli"),
    "rte": _glue("rte", "glue/RTE/train", "glue/RTE/dev"),
    "wnli": _glue("wnli"),
    "decisions": _by_generation("sets:Decisions"),
    "stories": _by_generation(
        "sets:Stories", "winobias/female_occupations", "winobias/male_occupations", "winogender/statistics"
    ),
    "bold": _by_generation(
        "public_sets:BOLD", "bold/prompts/gender", "bold/prompts/race", "bold/prompts/religious_ideology"
    ),
    "reddit_replies": _by_generation(
        "public_sets:RedditReplies",
        *(name for name in KNOWN if name.startswith("redditbias/") and name.endswith("/test")),
    ),
    "responses": _by_generation("sets:Responses"),
}
"""Every benchmark by name, including those of installed packages. A user adds one by adding an entry."""


_OF_FILES = ("pairs:FILE", "templates:FILE", "package.module:Class")


def load_benchmark(spec: str) -> Benchmark[Any] | FineTunedBenchmark[Any] | GeneratedBenchmark:
    """Load a benchmark by name, in the variant named after a colon.

    Args:
        spec: ``name``, or ``name:variant``, or ``name:variant,variant``, such as ``stereoset:dev``; or
            ``pairs:PATH``, for your own sentence pairs
            (:class:`equiframe.benchmarks.minimal_pairs.MinimalPairs`); or ``templates:PATH``, for your own prompts
            (:class:`equiframe.generation.sets.Templates`); or ``package.module:Class``, for your own class,
            with its variant after another colon.

    Raises:
        InputError: the name or variant is unknown (the error lists what is available), or the class cannot be imported.
    """
    name, _, words = spec.partition(":")
    if name == "pairs":
        return MinimalPairs(words)
    if name == "templates":
        templates: GeneratedBenchmark = load_class(f"{_GENERATED}.sets:Templates", (Scored,))(words)
        return templates
    if name in BENCHMARKS:
        registered = BENCHMARKS[name]
    elif is_place(spec):
        attribute, _, words = words.partition(":")
        name = f"{name}:{attribute}"
        registered = Registered(name)
    else:
        raise InputError(f"no benchmark {name!r}: {_meant(name, [*BENCHMARKS, *_OF_FILES])}")
    benchmark = load_class(registered.place, (Scored,))
    option_of = {choice: option for option, choices in benchmark.variants.items() for choice in choices}
    chosen = dict(registered.arguments)
    for word in filter(None, words.split(",")):
        if word not in option_of:
            raise InputError(f"no variant {word!r} of {name}: {_meant(word, option_of)}")
        if option_of[word] in chosen:
            raise InputError(f"{spec}: {chosen[option_of[word]]!r} and {word!r} cannot be combined")
        chosen[option_of[word]] = word
    made: Benchmark[Any] | FineTunedBenchmark[Any] | GeneratedBenchmark = benchmark(**chosen)
    made.name = name  # the name that finds it again, whatever the class is called
    return made


def summary(name: str) -> str:
    """Return the first sentence of a benchmark's documentation, which says what it measures."""
    text = inspect.getdoc(load_class(BENCHMARKS[name].place, (Scored,))) or ""
    return " ".join(text.partition("\n\n")[0].split())


def listing(source: AnySource) -> list[dict[str, Any]]:
    """For each benchmark, list what it measures and where its data comes from."""
    rows: list[dict[str, Any]] = []
    for name, registered in BENCHMARKS.items():
        origins = {origin_of(file, source) for file in registered.files()}
        if registered.hub and origins != {"user"}:  # the known GLUE files are other versions, used only from a folder
            origins = origins - {"copy"} | {"hub"}
        try:
            about = summary(name)
        except InputError as error:  # a package that is broken
            about = str(error)
        rows.append(
            {
                "name": name,
                "suite": _suite_of(registered),
                "fine_tunes": registered.fine_tunes,
                "about": about,
                "data": ", ".join(sorted(origins)) or "package",
            }
        )
    return rows


def suite(name: Suite) -> list[str]:
    """Return the names of the benchmarks of a suite; ``all`` means every benchmark."""
    return [key for key, entry in BENCHMARKS.items() if name in (_suite_of(entry), "all")]


def _suite_of(entry: Registered) -> str:
    return "generation" if entry.generates else entry.suite


def _meant(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    return f"{meant}Available: {', '.join(known) or 'none'}"
