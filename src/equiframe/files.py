"""Files that are written completely or not at all, and YAML that is read without losing any of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from equiframe.errors import DataError


@contextlib.contextmanager
def written_whole(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """A temporary file next to ``path`` that replaces it if the block ends without an error, and is deleted if not.

    Args:
        path: the file.
        shared: whether several processes may write it at the same time; each then uses its own temporary file.

    Raises:
        OSError: the file cannot be written.
    """
    scratch = path.with_name(f"{path.name}{f'.{os.getpid()}' if shared else ''}.partial")
    try:
        yield scratch
        scratch.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise


class _Repeated(yaml.MarkedYAMLError):
    """A key that a mapping has twice."""


class _Loader(yaml.SafeLoader):
    """Refuses a repeated key, of which YAML's own loader would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise _Repeated(problem=f"{key.value!r} is repeated: keep only one", problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, path: Path | str) -> tuple[Any, yaml.Node | None]:
    """Read the text of a YAML file without running any of it: its value, and its nodes, which know their lines.

    Raises:
        DataError: the text is not YAML, or a key is repeated; the message names the line.
    """
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        return None if root is None else loader.construct_document(root), root
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that does not exist
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or error
        said = " ".join(str(problem).split())
        message = said if isinstance(error, _Repeated) else f"not valid YAML ({said})"
        raise DataError(message, path=path, line=None if mark is None else mark.line + 1) from error
