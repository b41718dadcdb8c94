"""Shell lines of the documents, as a person would copy them."""

import re
from pathlib import Path

FENCE = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^(#+) (.+)$")


def section(document: Path, heading: str) -> str:
    """The text under a heading, to the next one that is not below it. Raises `ValueError`."""
    taken: list[str] = []
    depth = 0
    fenced = False
    for line in document.read_text().splitlines(keepends=True):
        fenced ^= line.startswith("```")
        found = None if fenced else HEADING.match(line)
        if found and depth and len(found[1]) <= depth:
            break
        if depth:
            taken.append(line)
        elif found and found[2] == heading:
            depth = len(found[1])
    if not depth:
        raise ValueError(f"{document} has no heading {heading!r}")
    return "".join(taken)


def shell_blocks(document: Path, heading: str) -> list[list[str]]:
    """The commands of each block under a heading, without their comments. Raises `ValueError`
    where there is none."""
    blocks = []
    for block in FENCE.findall(section(document, heading)):
        lines = [re.sub(r"\s+# .*$", "", line).strip() for line in block.splitlines()]
        blocks.append([line for line in lines if line and not line.startswith("#")])
    if not blocks:
        raise ValueError(f"{document} has no commands under {heading!r}")
    return blocks
