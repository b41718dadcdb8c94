"""The dates of certificates, as another library reads them."""

import datetime
from pathlib import Path

import pytest
import trustme
from geosched.ipc.instants import to_us
from geosched.workers.host import tls_files

NOW = datetime.datetime(2026, 11, 28, 12, 0, tzinfo=datetime.UTC)


@pytest.mark.parametrize("days", [(-1, 1), (-20_000, 40), (-300, 20_000), (-5, 300_000)])
def test_dates_are_those_that_were_given(days: tuple[int, int]) -> None:
    """From 2050 on, and before, they have another form."""
    begins, ends = (NOW + datetime.timedelta(days=each) for each in days)
    issued = trustme.CA().issue_cert("b.example", not_before=begins, not_after=ends)
    pem = issued.cert_chain_pems[0].bytes().decode()
    assert tls_files.validities(pem) == [(to_us(begins), to_us(ends))]


def test_each_certificate_of_a_file_counts_and_a_key_does_not(tmp_path: Path) -> None:
    first, second = trustme.CA(), trustme.CA()
    file = tmp_path / "ca.pem"
    key = second.issue_cert("x").private_key_pem.bytes().decode()
    file.write_text(f"{first.cert_pem.bytes().decode()}{key}{second.cert_pem.bytes().decode()}")
    assert len(tls_files.validities_in(str(file))) == 2


@pytest.mark.parametrize("cut", [1, 5, 40, 200])
def test_what_is_no_certificate_is_told(cut: int) -> None:
    import ssl

    der = ssl.PEM_cert_to_DER_cert(trustme.CA().cert_pem.bytes().decode())
    for damaged in (der[:cut], bytes(cut), der[:8] + bytes(cut)):
        with pytest.raises(ValueError, match=r"."):
            tls_files.validities(ssl.DER_cert_to_PEM_cert(damaged))
