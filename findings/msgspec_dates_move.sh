#!/bin/sh
# msgspec: dates move on their way in and on their way out.
#
# One would guess: a date text that is read into a datetime is cut to the microseconds that fit,
# as datetime.fromisoformat does; and what is written is the instant that was given.
# True: reading rounds, so that the last tenth of a microsecond of a year is in the next year, and
# a bound "until the end of the year" is not kept. Writing leaves out the seconds of an offset,
# which RFC 3339 cannot express, and does not correct the time for them: the text is another
# instant, by up to half a minute. All local mean times have such offsets (zoneinfo before 1900).
# Reading also takes an offset without a colon, which RFC 3339 does not know, though it refuses
# one without minutes.
#
# Seen: msgspec 0.22.0, Python 3.11.7.
set -eu

here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
cd "$here"
python3 -m venv venv
venv/bin/python -m pip install -q --disable-pip-version-check msgspec==0.22.0
cat > dates.py <<'PYTHON'
from datetime import datetime, timedelta, timezone

import msgspec


def read(text):
    try:
        return msgspec.json.decode(f'"{text}"', type=datetime).isoformat()
    except msgspec.ValidationError:
        return "refused"


last = "2030-12-31T23:59:59.9999999"
print("msgspec", msgspec.__version__)
print("cut by Python:", datetime.fromisoformat(last + "Z").isoformat())
print("read:", read(last + "Z"))
print("no colon:", read("2030-01-01T00:00:00+0100"), "no minutes:", read("2030-01-01T00:00:00+01"))
given = datetime(2030, 1, 1, tzinfo=timezone(timedelta(minutes=53, seconds=28)))
written = datetime.fromisoformat(msgspec.json.decode(msgspec.json.encode(given)))
print("seconds off when written:", (written - given).total_seconds())
PYTHON
venv/bin/python dates.py | tee found
cat > expected <<'TEXT'
msgspec 0.22.0
cut by Python: 2030-12-31T23:59:59.999999+00:00
read: 2031-01-01T00:00:00+00:00
no colon: 2030-01-01T00:00:00+01:00 no minutes: refused
seconds off when written: 28.0
TEXT
if cmp -s found expected; then echo "as written"; else echo "changed"; exit 1; fi
