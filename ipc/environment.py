"""The environment of child processes: what of their parent's they need, and nothing else of it."""

from collections.abc import Mapping

from . import failpoints

#: Variables that the daemon's own children get, and those of its commands; scripts get another set.
_ALLOWED = frozenset(
    {
        failpoints.VARIABLE,
        "HOME",
        "LANG",
        "LC_ALL",
        "LC_CTYPE",
        "LD_LIBRARY_PATH",
        "PATH",
        "PYTHONHOME",
        "PYTHONPATH",
        "SSL_CERT_DIR",
        "SSL_CERT_FILE",
        "TZ",
    }
)


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what of an environment a child process gets."""
    return {name: text for name, text in environment.items() if name in _ALLOWED}
