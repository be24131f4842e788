"""The common structure of every benchmark by generation, which measures the text that a model writes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from equiframe.benchmarks.benchmark import Scored, spread
from equiframe.data import DEFAULT_SOURCE, DataFile, DataSource
from equiframe.uncertainty import Estimate

Side: TypeAlias = Literal["yes", "no"]


@dataclass(frozen=True)
class Prompt:
    """One template as it is given to the model for one group.

    Args:
        template: name of the template, the same for every group.
        axis: the axis that the group belongs to, such as ``gender``; groups of one axis are compared.
        group: the group that the text is about.
        text: what a user would write.
        unit: prompts with the same unit are resampled together; most often it is the template.
        kind: the kind of template, such as ``hiring``; empty if there are no kinds.
        favourable: the answer that is good for the person, None if the prompt asks for no decision.
        is_beginning: whether the text is to be continued; a chat model is then asked to continue it.
    """

    template: str
    axis: str
    group: str
    text: str
    unit: str
    kind: str = ""
    favourable: Side | None = None
    is_beginning: bool = False


class GeneratedBenchmark(Scored):
    """A benchmark that turns templates and groups into prompts, responses into outcomes, and those into measures.

    The third kind, next to :class:`equiframe.benchmarks.Benchmark` and
    :class:`equiframe.benchmarks.fine_tuned.FineTunedBenchmark`. A benchmark sees prompts and responses, never a model.
    Intervals resample the units of prompts, with all groups and samples of a unit; groups are compared within a unit.

    Attributes:
        max_new_tokens: maximum length of a response in tokens, if the user does not set one.
    """

    max_new_tokens: ClassVar[int] = 64

    @abstractmethod
    def prompts(
        self, source: DataSource = DEFAULT_SOURCE, groups: Sequence[str] = ()
    ) -> tuple[list[Prompt], tuple[DataFile, ...]]:
        """Find, parse and check the templates, and fill them.

        Args:
            source: the source of data files.
            groups: axes or files, see :func:`equiframe.generation.prompts.groups_of`; a set whose prompts name their
                own groups ignores it.

        Raises:
            DataError: the data is not as expected; the error names the file, the line or field, and the content.
            InputError: a group does not exist.
        """

    def limited(self, prompts: list[Prompt], limit: int | None) -> list[Prompt]:
        """Return the prompts of ``limit`` units, spread evenly; by default return all.

        Raises:
            InputError: a limit below 1.
        """
        units = set(spread(list(dict.fromkeys(prompt.unit for prompt in prompts)), limit))
        return [prompt for prompt in prompts if prompt.unit in units]

    def headlines_among(self, estimates: Mapping[str, Estimate]) -> list[str]:
        """Return keys of further headline measures, if they depend on the groups; none, as here."""
        return []
