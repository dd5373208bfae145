"""Seconds, counts and money in few characters."""

from __future__ import annotations

HOUR = 3600.0
DAY = 24 * HOUR


def duration(seconds: float) -> str:
    """Seconds in two units at most.

    >>> duration(42), duration(200), duration(8000), duration(400000)
    ('42 s', '3 min', '2.2 h', '4.6 d')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 1.5 * HOUR:
        return f"{seconds / 60:.0f} min"
    if seconds < 3 * DAY:
        return f"{seconds / HOUR:.1f} h"
    return f"{seconds / DAY:.1f} d"


def short(number: float) -> str:
    """A number in three figures.

    >>> short(950), short(41000), short(2.5e9), short(0)
    ('950', '41 k', '2.5 G', '0')
    """
    for size, letter in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            part = number / size
            return f"{part:.0f}{letter}" if part >= 10 else f"{part:.1f}{letter}"
    return f"{number:.0f}"


def money(amount: float) -> str:
    """
    >>> money(3.456), money(2345)
    ('3.46', '2,345')
    """
    return f"{amount:.2f}" if amount < 100 else f"{amount:,.0f}"
