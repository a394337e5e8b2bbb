"""Unpacks gzip and deflate, up to a limit: 400 KB can unpack to 400 MB."""

import zlib

from proxy.refusals import Refusal, invalid, too_large

_STEP = 2**20  # bytes unpacked between two looks at the limit
_EITHER = 32 + zlib.MAX_WBITS  # zlib and gzip, by their headers
_RAW = -zlib.MAX_WBITS  # deflate as some clients send it, without a header


def unpacked(body: bytes, encoding: str, limit: int) -> bytes:
    """The content of a body.

    Args:
        body: As it was sent.
        encoding: HTTP's Content-Encoding: gzip, deflate, identity or "".
        limit: Bytes that it may unpack to.

    Raises:
        Refusal: If it is larger, broken, or packed in another way.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise invalid(
            "proxy", f"Content-Encoding is {encoding[:64]!r}, expected gzip, deflate or none.",
            "encoding",
        )  # fmt: skip
    try:
        return _inflated(body, _EITHER, limit)
    except zlib.error:
        if encoding != "deflate":
            raise _broken(encoding) from None
    try:
        return _inflated(body, _RAW, limit)
    except zlib.error:
        raise _broken(encoding) from None


def message_content(message: bytes, limit: int) -> bytes:
    """The content of a gRPC message, whose packing shows in its first two bytes.

    A message of protobuf cannot begin with those of gzip; none of Triton's has a field that would
    begin with those of zlib.

    Raises:
        Refusal: If it is larger than the limit, or broken.
    """
    head = message[:2]
    if head == b"\x1f\x8b":
        return unpacked(message, "gzip", limit)
    if len(head) == 2 and head[0] == 0x78 and int.from_bytes(head, "big") % 31 == 0:
        return unpacked(message, "deflate", limit)
    if len(message) > limit:
        raise _too_large(limit)
    return message


def _inflated(body: bytes, window: int, limit: int) -> bytes:
    parts, size, rest = [], 0, body
    while rest:  # gzip allows several members, one after the other
        machine = zlib.decompressobj(window)
        while rest and not machine.eof:
            part = machine.decompress(rest, _STEP)
            parts.append(part)
            size += len(part)
            if size > limit:
                raise _too_large(limit)
            rest = machine.unconsumed_tail
        if not machine.eof:
            raise zlib.error
        rest = machine.unused_data
    return b"".join(parts)


def _too_large(limit: int) -> Refusal:
    return too_large(
        f"the request is larger than {limit / 2**20:g} MiB. Send less, or raise --max-body-mib."
    )


def _broken(encoding: str) -> Refusal:
    return invalid("proxy", f"the body is no complete {encoding}.", "encoding")
