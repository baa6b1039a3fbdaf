"""Lines of a byte stream with the place where each begins, in bounded memory.

A line longer than the bound is given as None (its place is still known), so that one endless line of a broken file
costs neither memory nor the other rows. The last line needs no newline.
"""

from collections.abc import AsyncIterator

__all__ = ["placed_lines"]


async def placed_lines(parts: AsyncIterator[bytes], *, line_bytes_max: int) -> AsyncIterator[tuple[int, bytes | None]]:
    """(byte offset, line without its newline) of every line that is not blank."""
    held, start, too_long = b"", 0, False
    async for part in parts:
        *whole, rest = (held + part).split(b"\n")
        for line in whole:
            if too_long or line.strip():
                yield start, None if too_long or len(line) > line_bytes_max else line
            start, too_long = start + len(line) + 1, False
        held = rest
        if len(held) > line_bytes_max:
            # What was seen of it is forgotten; where it began is not.
            too_long, start, held = True, start + len(held), b""
    if too_long or held.strip():
        yield start, None if too_long or len(held) > line_bytes_max else held
