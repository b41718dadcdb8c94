"""The verb `doctor`, and its sheet: a look at this host, before a daemon runs or beside one.

It asks no daemon. Another process (`supervisor/startup/first_run/doctor.py`) looks, and a third
one, without root's rights, speaks to the network; this one shows what they find.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import click
import msgspec

from ...decoding import DECODE_ERRORS
from ...messages.first_run import Finding, State
from ...paths import DEFAULT_CONFIG
from ..exits import Exit, VerbFailedError
from ..options import OutputFormat, Verb, output_of
from ..printing import complain, fields, show, show_line
from ..table import Block, Sheet
from ..tool import Complaints, Tool
from ..words import clean

TOOL = "geosched.supervisor.startup.first_run.doctor"
#: A pull has 40 s of them at most; the rest is for a slow host, and for disks that hang.
SECONDS_MAX = 120.0
FINDINGS_MAX = 1000


@click.command(cls=Verb)
@click.pass_context
def command(ctx: click.Context) -> int:
    """Look at this host and its backend, and say what to do; exit 1 if anything is to do."""
    config = Path(ctx.meta.get("config", DEFAULT_CONFIG)).absolute()
    found: list[Finding] = []
    try:
        for finding in _found(config, ctx.meta.get("timeout") or SECONDS_MAX):
            found.append(finding)
            if output_of(ctx) is OutputFormat.JSONL:
                show_line(finding)
    finally:  # also where a disk hangs: what was seen before tells which
        if found and output_of(ctx) is not OutputFormat.JSONL:
            show(ctx, {"findings": [fields(each) for each in found]}, doctor_sheet(found))
    to_do = sum(each.state is State.TO_DO for each in found)
    if to_do:
        complain(f"{to_do} {'thing is' if to_do == 1 else 'things are'} to do")
    return Exit.FAILED if to_do else Exit.DONE


def _found(config: Path, seconds: float) -> Iterator[Finding]:
    """Start the look and yield what it finds."""
    decode = msgspec.json.Decoder(Finding).decode
    with Tool("look at this host", TOOL, config, show=Complaints()) as tool:
        tool.end_after(seconds)
        for line in islice(tool.lines(), FINDINGS_MAX):
            try:
                yield decode(line)
            except DECODE_ERRORS:
                raise VerbFailedError("cannot look at this host: its process is none") from None
        if code := tool.code():
            raise VerbFailedError(f"cannot look at this host: its process ended with {code}")


def doctor_sheet(found: Sequence[Finding]) -> Sheet:
    """Show what is fine in a line each, then what is worth knowing, and last what is to be done:
    that stays in sight."""
    fine = [each for each in found if each.state is State.FINE]
    lines = [(clean(each.name), f"fine: {clean(each.seen)}; {clean(each.means)}") for each in fine]
    blocks = [Block(tuple(lines))] if lines else []
    for state in (State.WORTH_KNOWING, State.TO_DO):
        blocks += [_block(each) for each in found if each.state is state]
    return blocks


def _block(finding: Finding) -> Block:
    pairs = [
        (clean(finding.name), str(finding.state)),
        ("seen", clean(finding.seen)),
        ("means", clean(finding.means)),
    ]
    if finding.todo:
        pairs.append(("do", clean(finding.todo)))
    return Block(tuple(pairs))
