"""Reports as the backend is told of them, and their keys."""

from types import SimpleNamespace

import pytest
from geosched.ipc.messages.sync import Taken
from geosched.ipc.signals import signal_name
from geosched.supervisor.core.model import Instant
from geosched.supervisor.store.daemondb import Verdicts
from geosched.supervisor.sync.report_sender import (
    ReportSender,
    report_key,
    sequence_of,
)


@pytest.mark.parametrize("sequence", [0, 1, 10**19 - 1])
def test_a_key_leads_back_to_its_report(sequence: int):
    assert sequence_of(report_key("abc-def", sequence), "abc-def") == sequence


@pytest.mark.parametrize(
    "key", ["", "-", "7", "abc", "abc-", "abc-x", "abc--7", "abc-07", "abc- 7", "abc-\u0667",
            "xyz-7", "abc-7-7", "abc-" + "9" * 20],
)  # fmt: skip
def test_no_other_text_is_a_key(key: str):
    assert sequence_of(key, "abc") is None


@pytest.mark.parametrize(("number", "name"), [(15, "SIGTERM"), (35, "SIG35"), (999, "SIG999")])
def test_a_signal_has_a_name_even_where_the_system_has_none(number: int, name: str):
    assert signal_name(number) == name


def test_an_error_of_refused_reports_begins_with_the_published_word():
    sender = ReportSender(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
    sender._in_flight = {"k-1": 1}
    taken = Taken(1, (), (("k-1", "http://backend/ answers 413"),))
    said = sender.heard(taken, Instant(0), waited=True)
    assert said == (0, "refused: http://backend/ answers 413")
    assert sender.verdicts(Instant(0), in_company=False) == Verdicts((), (1,))
