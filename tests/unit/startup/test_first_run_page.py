"""The page about the first run has every subject that is looked at, and every option."""

import re

import click
from geosched.ipc.ctl.commands import init
from support.paths import DOCS, ROOT

PAGE = (DOCS / "first-run.md").read_text()
FIRST_RUN = ROOT / "supervisor/startup/first_run"
#: A name as it is written where a finding is made, or kept for several.
NAME = re.compile(r'(?:Finding\(\s*|\bname(?:, \w+)? = |of_certificates\()"([a-z-]+)"')


def test_every_subject_is_explained() -> None:
    judging = (*FIRST_RUN.glob("*diagnosis.py"), FIRST_RUN / "doctor.py")
    sources = "\n".join(path.read_text() for path in judging)
    explained = re.findall(r"^\| `([a-z-]+)` \|", PAGE.partition("## doctor")[2], re.MULTILINE)
    assert set(NAME.findall(sources)) == set(explained)
    assert len(explained) > 15


def test_every_option_is_explained() -> None:
    options = (param for param in init.command.params if isinstance(param, click.Option))
    own = {name for param in options for name in (*param.opts, *param.secondary_opts)}
    shared = {"--config", "--socket", "--timeout", "-o", "--output"}
    told = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", PAGE))
    assert {name for name in own - shared if name not in told} == set()
