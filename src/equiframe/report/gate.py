"""A judgement as text: for a terminal, for a job's summary page in Markdown, and as JUnit XML."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

from equiframe.errors import RunError
from equiframe.gate.judge import Judgement, Outcome, Ruling
from equiframe.report.card import in_markdown
from equiframe.report.numbers import MINUS, bounds, number

HEADERS = ["rule", "measured [95 %]", "allowed", "items", "ruling"]
_SIGNS: dict[Outcome, str] = {"passed": "✓", "failed": "✗", "not judged": "?"}
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def rows(judgement: Judgement) -> list[list[str]]:
    """One row per ruling, for the columns of ``HEADERS``."""
    return [
        [
            r.rule,
            _measured(r),
            _allowed(r),
            "" if r.items is None else f"{r.items:,}",
            f"{_SIGNS[r.outcome]} {r.outcome}",
        ]
        for r in judgement.rulings
    ]


def reasons(judgement: Judgement) -> list[str]:
    """The reasons why rules did not pass, failed rules first."""
    order: tuple[Outcome, ...] = ("failed", "not judged")
    return [
        f"{_SIGNS[outcome]} {ruling.rule}: {ruling.reason}"
        for outcome in order
        for ruling in judgement.rulings
        if ruling.outcome == outcome
    ]


def conclusion(judgement: Judgement) -> str:
    """The outcome, and the number of rules with each outcome."""
    outcomes = [ruling.outcome for ruling in judgement.rulings]
    counts = [f"{outcomes.count(outcome)} {outcome}" for outcome in _SIGNS if outcome in outcomes]
    return f"{judgement.outcome.upper()}: {', '.join(counts)}"


def chance(judgement: Judgement) -> str:
    """The effect of chance alone on this number of rules."""
    found = judgement.chance
    if found.rules == 1:
        rules, wrong, probability = "1 rule on a 95 % interval", "it passes or fails wrongly", _percent(found.at_most)
    else:
        rules, wrong = f"{found.rules} rules on 95 % intervals", "one or more of them pass or fail wrongly"
        probability = (
            f"{_percent(found.at_least_one)} if the rules are independent and {_percent(found.at_most)} if they are not"
        )
    return (
        f"{rules}: an interval misses the true value in at most 5 % of samples, so by chance alone {wrong} with a"
        f" probability of at most {probability}. Because every rule must pass, a model that truly breaks one of them"
        " passes the gate in at most 5 % of samples."
    )


def markdown(judgement: Judgement) -> str:
    """A summary in Markdown, for the page of a CI job."""
    lines = [
        f"## Bias gate {_SIGNS[judgement.outcome]} {conclusion(judgement)}",
        "",
        in_markdown(_subject(judgement)),
        "",
        _line(HEADERS),
        _line(["---", "---:", "---:", "---:", "---"]),
        *(_line([in_markdown(cell) for cell in row]) for row in rows(judgement)),
        "",
        *(f"- {in_markdown(reason)}\n" for reason in reasons(judgement)),
        in_markdown(chance(judgement)),
    ]
    return "\n".join(lines) + "\n"


def junit(judgement: Judgement) -> str:
    """JUnit XML with a test case per rule: a failure if it failed, an error if it could not be judged."""
    outcomes = [ruling.outcome for ruling in judgement.rulings]
    counts = {
        "tests": str(len(outcomes)),
        "failures": str(outcomes.count("failed")),
        "errors": str(outcomes.count("not judged")),
    }
    root = ET.Element("testsuites", counts)
    suite = ET.SubElement(root, "testsuite", {"name": "equiframe gate", **counts, "skipped": "0"})
    properties = ET.SubElement(suite, "properties")
    for name, value in (("model", judgement.after), ("against", judgement.before), ("chance", chance(judgement))):
        if value is not None:
            ET.SubElement(properties, "property", {"name": name, "value": _xml(value)})
    for ruling in judgement.rulings:
        case = ET.SubElement(suite, "testcase", {"classname": _xml(ruling.benchmark), "name": _xml(ruling.rule)})
        if ruling.outcome != "passed":
            kind = "failure" if ruling.outcome == "failed" else "error"
            ET.SubElement(case, kind, {"message": _xml(ruling.reason), "type": ruling.outcome})
        if ruling.value is not None:
            ET.SubElement(case, "system-out").text = f"measured {_measured(ruling)}, allowed {_allowed(ruling)}"
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=False) + "\n"


def write(file: Path, text: str) -> None:
    """Write a text to a file and replace its previous contents.

    Raises:
        RunError: the file cannot be written.
    """
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunError(f"{file}: cannot be written ({error.strerror})") from error


def _subject(judgement: Judgement) -> str:
    against = "" if judgement.before is None else f", compared with {judgement.before}"
    return f"Model: {judgement.after}{against}."


def _measured(ruling: Ruling) -> str:
    if ruling.value is None:
        return ""
    value = number(ruling.value, ruling.unit, signed=ruling.is_change)
    ends = bounds(ruling.low, ruling.high, ruling.unit, signed=ruling.is_change)
    return f"worse by {value} {ends}" if ruling.is_change else f"{value} {ends}"


def _allowed(ruling: Ruling) -> str:
    if ruling.highest is None:
        return ""
    ends = ["at most"] if ruling.lowest is None else [f"{ruling.lowest:g}", "to"]
    return " ".join([*ends, f"{ruling.highest:g}"]).replace("-", MINUS)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _xml(text: str) -> str:
    """The text with characters that XML does not allow replaced."""
    return _NOT_XML.sub("\ufffd", text)
