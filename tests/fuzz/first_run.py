"""Targets: what a probe says of a backend, and the certificate that a backend shows."""

import msgspec
from geosched.ipc.messages.first_run import Dates, Probed
from geosched.ipc.messages.sync import ErrorKind
from geosched.supervisor.startup.first_run import backend_diagnosis
from geosched.workers.host import tls_files

from .oracle import Target


def _probed(data: bytes) -> bool:
    probed = msgspec.json.decode(data, type=Probed)
    findings = [
        backend_diagnosis.of_backend("https://b.example", probed, oauth=False),
        *backend_diagnosis.of_backend_clock(probed.ahead_seconds),
        *backend_diagnosis.of_certificates("certificate", probed.certificates, 2**50, "renew it"),
    ]
    msgspec.json.encode(findings)
    return True


def _certificate(data: bytes) -> bool:
    tls_files._validity(data)
    return True


def _value(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return bytes((tag, len(content))) + content


#: As much of a certificate as its dates take (RFC 5280, 4.1).
_SIGNED = _value(
    0x30,
    _value(0xA0, _value(0x02, b"\2")),
    _value(0x02, b"\1"),
    _value(0x30),
    _value(0x30),
    _value(0x30, _value(0x17, b"261128120000Z"), _value(0x18, b"20501128120000Z")),
)

TARGETS = (
    Target(
        "answer of a probe",
        (
            msgspec.json.encode(Probed(actions=3, ahead_seconds=0.5)),
            msgspec.json.encode(
                Probed(ErrorKind.UNTRUSTED, "no", certificates=(Dates("a:443", -1, 2**40),))
            ),
        ),
        lambda _: _probed,
        (ValueError, RecursionError),
    ),
    Target(
        "dates of a certificate",
        (_value(0x30, _SIGNED),),
        lambda _: _certificate,
        (ValueError,),
        (b"991128120000Z", b"99991231235959Z", b"\x84\xff\xff\xff\xff", b"\x80", b"\x17", b"\x18"),
    ),
)
