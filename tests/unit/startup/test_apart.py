"""A call that was made apart and failed is told as an error, not as an answer."""

import logging

import pytest
from geosched.supervisor.startup.apart import called_apart


def test_an_answer_is_what_the_call_returned():
    assert called_apart(lambda: ["a", "\u00e9"]) == ["a", "\u00e9"]


def test_a_call_that_fails_is_an_error_with_its_trace_in_the_log(capfd: pytest.CaptureFixture[str]):
    def fails() -> list[str]:
        raise OverflowError("too large")

    handler = logging.StreamHandler()
    logging.getLogger().addHandler(handler)
    try:
        with pytest.raises(OSError, match="has failed"):
            called_apart(fails)
    finally:
        logging.getLogger().removeHandler(handler)
    assert "OverflowError: too large" in capfd.readouterr().err
