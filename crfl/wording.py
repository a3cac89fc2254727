"""How numbers read in sentences."""


def amount(number: int, noun: str, plural: str = "") -> str:
    """The number with its noun.

    Example:
        >>> amount(1, "attacker"), amount(1200, "class", "classes")
        ('1 attacker', '1,200 classes')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
