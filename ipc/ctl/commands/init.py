"""The verb `init`: a first configuration of the daemon, from answers to a few questions.

It asks no daemon, and a person only on a terminal; each answer has an option, too. Another
process (`supervisor/startup/first_run/init.py`) writes the files, checks them as
`geoschedd --check` does, and has this host's init run the daemon.
"""

import os
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec

from ...backends import BACKENDS
from ...decoding import DECODE_ERRORS
from ...messages.first_run import Answer, Enabled, NotDone, Wanted, Written
from ...paths import DEFAULT_CONFIG
from ..exits import Exit, VerbFailedError
from ..options import Verb
from ..printing import complain, fields, show
from ..table import Block, Sheet
from ..tool import Complaints, Tool
from ..words import clean

TOOL = "geosched.supervisor.startup.first_run.init"
WRITE_SECONDS_MAX = 60.0
#: A slow host needs minutes to start the daemon.
ENABLE_SECONDS_MAX = 300.0
SECRET_BYTES_MAX = 8 * 1024
ANSWER_BYTES_MAX = 1024 * 1024

NONE, TOKEN, LOGIN, MACHINE = "none", "token", "oauth", "client-credentials"
_AUTHS = (NONE, TOKEN, LOGIN, MACHINE)
#: The keys that answers are the values of; those that are no texts are set apart.
_KEYS = {
    "backend": "backend.kind",
    "url": "backend.url",
    "path": "backend.path",
    "token_file": "backend.token_file",
    "oauth_token_url": "backend.oauth_token_url",
    "oauth_device_url": "backend.oauth_device_url",
    "oauth_client_id": "backend.oauth_client_id",
    "client_secret_file": "backend.oauth_client_secret_file",
}
_PATHS = ("path", "token_file", "client_secret_file")

Answers = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """A question to a person, for the option `--name`. It is `wanted` depending on the answers to
    those before it; without a `default` it has to be answered. `secret`: it is not shown."""

    name: str
    text: str
    wanted: Callable[[Answers], bool]
    default: str | None = None
    choices: tuple[str, ...] = ()
    secret: bool = False

    @property
    def option(self) -> str:
        return "--secret-stdin" if self.secret else f"--{self.name.replace('_', '-')}"


def _needs(key: str) -> Callable[[Answers], bool]:
    return lambda given: given["backend"] in BACKENDS and BACKENDS[given["backend"]].needs == key


def _authenticates(*by: str) -> Callable[[Answers], bool]:
    return lambda given: not BACKENDS[given["backend"]].local and given.get("auth") in by


def _wants_secret(given: Answers) -> bool:
    """No file was named that may have it already."""
    file = {TOKEN: "token_file", MACHINE: "client_secret_file"}.get(given.get("auth", ""))
    return not BACKENDS[given["backend"]].local and file is not None and given.get(file) is None


QUESTIONS = (
    Question("backend", "Kind of backend", lambda _: True, choices=tuple(BACKENDS)),
    Question("url", "Address of the backend (https://…)", _needs("url")),
    Question("path", "File with the actions (empty: in state_dir)", _needs("path"), default=""),
    Question(
        "auth",
        "How to authenticate: a token, a person who logs in (oauth), a secret of this host"
        " (client-credentials), or not at all",
        _needs("url"),
        default=NONE,
        choices=_AUTHS,
    ),
    Question("secret", "Its text, which is not shown", _wants_secret, secret=True),
    Question("oauth_token_url", "Token endpoint (https://…)", _authenticates(LOGIN, MACHINE)),
    Question("oauth_device_url", "Device authorization endpoint", _authenticates(LOGIN)),
    Question("oauth_client_id", "Client id", _authenticates(LOGIN, MACHINE)),
)


@click.command(cls=Verb)
@click.option("--backend", type=click.Choice([*BACKENDS]), help="The kind of backend.")
@click.option("--url", help="Its address, for http and trpc.")
@click.option("--path", metavar="FILE", help="Its actions, for file.  [default: in state_dir]")
@click.option("--auth", type=click.Choice(_AUTHS), help="How to authenticate.  [default: none]")
@click.option("--token-file", metavar="FILE", help="The file with the token.")
@click.option("--client-secret-file", metavar="FILE", help="The file with the client's secret.")
@click.option("--secret-stdin", is_flag=True, help="Read the token, or the secret, from stdin.")
@click.option("--oauth-token-url", metavar="URL", help="The token endpoint.")
@click.option("--oauth-device-url", metavar="URL", help="The device authorization endpoint.")
@click.option("--oauth-client-id", metavar="ID", help="The client id.")
@click.option("--script", metavar="COMMAND", help="What to run, split into words as a shell does.")
@click.option("--directory", metavar="DIR", help="Keep state, sockets and output below it.")
@click.option("--set", "more", multiple=True, metavar="KEY=VALUE", help="Any other key; repeat it.")
@click.option("--overwrite", is_flag=True, help="Replace the files that are there.")
@click.option("--enable/--no-enable", default=None, help="Have this host's init run the daemon.")
@click.option("-y", "--yes", is_flag=True, help="Ask nothing: take defaults, and enable.")
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> int:
    """Write a first configuration, check it, and say what comes next."""
    asks = sys.stdin.isatty() and sys.stderr.isatty() and not given["yes"]
    config = _config(ctx, given)
    if os.path.lexists(config) and asks and not given["overwrite"]:
        given["overwrite"] = click.confirm(f"Replace {clean(str(config))}?", abort=True, err=True)
    wanted = _wanted(ctx, config, given, asks=asks)
    written = _asked(wanted, seconds=ctx.meta.get("timeout") or WRITE_SECONDS_MAX)
    assert isinstance(written, Written)
    enabled = _enable(written, given, asks=asks)
    document = {key: value for key, value in fields(written).items() if key != "event"}
    show(ctx, document | {"enabled": enabled}, init_sheet(written, enabled=enabled))
    return Exit.DONE


def _config(ctx: click.Context, given: Answers) -> Path:
    """Return where the configuration goes. Who is not root has no right to the usual place, and
    gets one of their own, with the daemon's directories beside it."""
    if "config" in ctx.meta:
        return Path(ctx.meta["config"]).absolute()
    if os.geteuid() == 0:
        return DEFAULT_CONFIG
    home = Path.home()
    if given["directory"] is None:
        given["directory"] = str(_base("XDG_STATE_HOME", home / ".local/state"))
    return _base("XDG_CONFIG_HOME", home / ".config") / DEFAULT_CONFIG.name


def _base(variable: str, usual: Path) -> Path:
    return Path(os.environ.get(variable) or usual) / "geosched"


# --- answers ----------------------------------------------------------------------------


def _wanted(ctx: click.Context, config: Path, given: Answers, *, asks: bool) -> Wanted:
    """Return what is to be written, by options and by what a person answers. Raises
    `click.UsageError` where an answer is missing."""
    if given["secret_stdin"]:
        given["secret"] = _secret()
    if given["auth"] is None and (given["token_file"] or given["secret_stdin"]):
        given["auth"] = MACHINE if given["client_secret_file"] else TOKEN
    missing = [each.option for each in QUESTIONS if not _answered(each, given, asks=asks)]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        detail = f"nobody is there to ask: {', '.join(missing)} {verb} missing"
        raise click.UsageError(detail, ctx)
    values = _values(ctx, given)
    directory = str(Path(given["directory"]).absolute()) if given["directory"] else ""
    secret = given.get("secret") or ""
    return Wanted(str(config), values, secret, directory, given["overwrite"])


def _answered(question: Question, given: Answers, *, asks: bool) -> bool:
    """Make sure of an answer, and keep it; False where there is none."""
    if given.get("backend") is None and question.name != "backend":
        return True  # which questions there are follows from that
    if given.get(question.name) is not None or not question.wanted(given):
        return True
    if asks:
        kind = click.Choice(question.choices) if question.choices else str
        given[question.name] = click.prompt(
            question.text, question.default, question.secret, type=kind, err=True
        )
        return True
    given[question.name] = question.default
    return question.default is not None


def _secret() -> str:
    """Return the one line on standard input. Raises `click.UsageError`."""
    read = sys.stdin.buffer.read(SECRET_BYTES_MAX + 1)
    if not read.strip() or len(read) > SECRET_BYTES_MAX:
        raise click.UsageError(f"expected 1 to {SECRET_BYTES_MAX} bytes on standard input")
    return read.decode(errors="replace").strip()


def _values(ctx: click.Context, given: Answers) -> dict[str, Any]:
    """Return keys of the configuration with their values."""
    values = {key: given[name] for name, key in _KEYS.items() if given[name]}
    values |= {_KEYS[name]: str(Path(given[name]).absolute()) for name in _PATHS if given[name]}
    if given["auth"] in (LOGIN, MACHINE):
        values["backend.auth"] = "oauth"
        grant = "client_credentials" if given["auth"] == MACHINE else "refresh_token"
        values["backend.oauth_grant"] = grant
    if given["script"]:
        values["scripts.default.command"] = _words(ctx, given["script"])
    return values | dict(_more(ctx, given["more"]))


def _words(ctx: click.Context, command: str) -> list[str]:
    try:
        program, *arguments = shlex.split(command)
    except ValueError:
        raise click.UsageError(f"cannot split the script {command!r} into words", ctx) from None
    return [str(Path(program).absolute()) if "/" in program else program, *arguments]


def _more(ctx: click.Context, pairs: "tuple[str, ...]") -> Iterator[tuple[str, Any]]:
    """Yield the keys and values of `--set`; a value that is no TOML is a text."""
    for pair in pairs:
        key, mark, text = pair.partition("=")
        if not mark:
            raise click.UsageError(f"cannot use --set {pair!r}: expected KEY=VALUE", ctx)
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        yield key.strip(), value


# --- the process that does it -----------------------------------------------------------


def _asked(wanted: Wanted | None, *, seconds: float) -> Answer:
    """Have a configuration written, or for None the daemon enabled. Raises `VerbFailedError`."""
    what, verb = ("write a configuration", "write") if wanted else ("enable it", "enable")
    try:
        given = msgspec.json.encode(wanted) if wanted else b""
    except (TypeError, UnicodeEncodeError) as error:
        raise VerbFailedError(f"cannot {what}: {error}", Exit.USAGE) from None
    with Tool(what, TOOL, verb, show=Complaints(), given=given) as tool:
        tool.end_after(seconds)
        said = tool.output.read(ANSWER_BYTES_MAX)
        tool.code()
    try:
        answer: Answer = msgspec.json.decode(said, type=Answer)
    except DECODE_ERRORS:
        raise VerbFailedError(f"cannot {what}: its process gave no answer") from None
    if isinstance(answer, NotDone):
        for reason in answer.reasons[:-1]:
            complain(reason)
        raise VerbFailedError(answer.reasons[-1], Exit(answer.code))
    return answer


def _enable(written: Written, given: Mapping[str, Any], *, asks: bool) -> bool:
    """Have the init run the daemon, where it can and somebody says so; return whether it does.
    Raises `VerbFailedError`."""
    wanted = given["enable"]
    if not written.enable:
        if wanted:
            raise VerbFailedError(
                f"{written.config} is written, but not enabled: {written.init} has no unit for it"
                " that does not run already"
            )
        return False
    if wanted is None and asks:
        text = f"Have {clean(written.init)} run the daemon, now and at boot ({written.enable})?"
        wanted = click.confirm(text, default=True, err=True)
    if not (given["yes"] if wanted is None else wanted):
        return False
    return isinstance(_asked(None, seconds=ENABLE_SECONDS_MAX), Enabled)


def init_sheet(written: Written, *, enabled: bool) -> Sheet:
    pairs = [("configuration", clean(written.config))]
    pairs += [("made", clean(path)) for path in written.made if path != written.config]
    pairs += [("ATTENTION", clean(text)) for text in (*written.warnings, *written.left)]
    if enabled:
        pairs.append(("enabled", f"{clean(written.init)} runs the daemon"))
    commands = [each for each in written.next if not (enabled and each == written.enable)]
    pairs += [("next", clean(each)) for each in commands]
    return [Block(tuple(pairs))]
