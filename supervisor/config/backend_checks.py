"""Consistency checks of the keys of `[backend]`, each with the others. Pure.

A key that is given and never read is a mistake: a certificate without an effect must not pass
for a protection. Types and ranges of single keys are those of the fields.
"""

from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import msgspec

from ...ipc.backends import BACKENDS
from . import parsers
from .sections import BackendSettings

#: A key without `backend.`, and the reason why it is wrong.
Mistake = tuple[str, str]

_URLS: dict[str, Callable[[str], None]] = {
    "url": parsers.check_url,
    "oauth_token_url": parsers.check_oauth_url,
    "oauth_device_url": parsers.check_oauth_url,
    "proxy": parsers.check_proxy,
}
_TEXTS = ("oauth_client_id", "oauth_audience", "oauth_scope")


def mistakes(backend: BackendSettings) -> Iterator[Mistake]:
    """Yield the mistakes of the section, the most informative one first."""
    yield from _address_mistakes(backend)
    yield from _token_mistakes(backend) if backend.auth == "token" else _oauth_mistakes(backend)
    yield from _tls_mistakes(backend)
    for key, check in _URLS.items():
        try:
            if getattr(backend, key):
                check(getattr(backend, key))
        except ValueError as error:
            yield key, str(error)
    for key in _TEXTS:
        if not getattr(backend, key).isprintable():
            yield key, "has a control character in it"


def exposures(backend: BackendSettings) -> Iterator[Mistake]:
    """Yield what can be used, and lets others read a secret."""
    parts = urlsplit(backend.url)
    host = parts.hostname or ""
    if backend.token_file and parts.scheme == "http" and not parsers.is_this_host(host):
        yield "url", f"the token goes over plain http to {host}, and whoever is on the way reads it"


def _address_mistakes(backend: BackendSettings) -> Iterator[Mistake]:
    kind = BACKENDS[backend.kind]
    if not getattr(backend, kind.needs):
        yield kind.needs, f'is missing (kind = "{backend.kind}" needs it)'
    if backend.proxy and not kind.takes_proxy:
        yield "proxy", f'is not for kind = "{backend.kind}"'


def _token_mistakes(backend: BackendSettings) -> Iterator[Mistake]:
    for field in msgspec.structs.fields(backend):
        if field.name.startswith("oauth_") and getattr(backend, field.name) != field.default:
            yield field.name, 'is only for auth = "oauth"'


def _oauth_mistakes(backend: BackendSettings) -> Iterator[Mistake]:
    if BACKENDS[backend.kind].local:
        yield "auth", f'a {backend.kind} (kind = "{backend.kind}") asks nobody who they are'
    machine = backend.oauth_grant == "client_credentials"
    for key in ("oauth_token_url", "oauth_device_url"):
        if backend.proxy and getattr(backend, key).startswith("http:"):
            yield key, "expected https://…: the proxy would see the secrets that are sent there"
    if machine and backend.oauth_device_url:
        yield "oauth_device_url", 'is only for oauth_grant = "refresh_token"'
    secret = ("oauth_client_secret_file",) if machine else ()
    for key in ("token_file", "oauth_token_url", "oauth_client_id", *secret):
        if not getattr(backend, key):
            yield key, 'is missing (auth = "oauth" needs it)'


def _tls_mistakes(backend: BackendSettings) -> Iterator[Mistake]:
    for key, other in (("client_cert", "client_key"), ("client_key", "client_cert")):
        if getattr(backend, key) and not getattr(backend, other):
            yield other, f"is missing ({key} needs it)"
    urls = (backend.url, backend.oauth_token_url, backend.oauth_device_url)
    for key in ("ca_file", "client_cert"):
        if getattr(backend, key) and not any(url.startswith("https:") for url in urls):
            yield key, "is only for an https:// address"
