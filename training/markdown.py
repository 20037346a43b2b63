"""Tables of Markdown, as reports and results have them."""

from collections.abc import Sequence


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table, whose cells are any values."""
    if not rows:
        return "None.\n"
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"|{'|'.join(map(_cell, line))}|\n" for line in lines)


def _cell(value: object) -> str:
    """Text that cannot leave its cell."""
    text = " ".join(str(value).split()).replace("|", "\\|")
    return f" {text} " if text else " "
