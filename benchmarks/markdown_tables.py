"""Tables for readers, written to their places in the documentation."""


def table(headers, rows):
    """Make a Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [headers, ["---"] * len(headers), *rows])


def write(text, file, name):
    """Write text between the lines <!-- name --> and <!-- /name --> of a file, or to a new one; whole or not at all."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before = after = ""
    if file.exists():
        before, found, rest = file.read_text(encoding="utf-8").partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise SystemExit(f"{file} has no lines {begin} and {end} to write between: add them, or give a new file")
    scratch = file.with_name(file.name + ".partial")
    scratch.write_text(f"{before}{begin}\n{text}\n{end}{after or chr(10)}", encoding="utf-8")
    scratch.replace(file)
