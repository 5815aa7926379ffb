"""Amounts as people read them."""


def bytes_text(num_bytes: int | None) -> str:
    """Return `1.5 MiB`, or `?` where the number is unknown."""
    if num_bytes is None:
        return "?"
    amount = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def seconds_text(seconds: float | None) -> str:
    """Return `45 s`, `3 min 20 s` or `2 h 05 min`, or `?` where the number is unknown."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    if whole < 5400:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def count_text(count: int, word: str) -> str:
    """Return `1 stage` or `3 stages`, `1 entry` or `3 entries`."""
    several = f"{word[:-1]}ies" if word.endswith("y") else f"{word}s"
    return f"{count} {word if count == 1 else several}"
