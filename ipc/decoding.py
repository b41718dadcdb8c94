"""Errors of decoding, alike in each version of msgspec."""

import msgspec

#: What decoding raises for bytes that are not what was asked for. Those of msgspec are no
#: `ValueError` before its version 0.21 (fact M1); fields are checked by functions that raise that;
#: and what is nested too deep is a `RecursionError`.
DECODE_ERRORS = (msgspec.MsgspecError, ValueError, RecursionError)
