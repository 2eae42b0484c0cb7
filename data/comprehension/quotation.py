"""A quotation as a sentence of its own, and as a part of one."""

from collections.abc import Container

_ENDS = (".", "!", "?", "…", "。", "！", "？", "；")
_CLOSING = "\"'”’»)]）】」』"
# The point of an abbreviation stays where the stop of a sentence goes.
_ABBREVIATED = ("...", " al.", " etc.", " Inc.", " Co.", " Ltd.", " Corp.", " Jr.", " No.", " St.")


def capitalized(text: str) -> str:
    """With a capital letter, but for names that begin with a small one (mRNA, pH, p53, c-Myc)."""
    first = text[:1]
    if not first.islower():
        return text
    second = text[1:2]
    if second.isupper() or second.isdigit() or second == "-":
        return text
    return first.upper() + text[1:] if len(first.upper()) == 1 else text


def uncapitalized(text: str, words: Container[str]) -> str:
    """With a small letter, if its first word is one of `words`."""
    word = text.split(" ", 1)[0].rstrip(",")
    return text[:1].lower() + text[1:] if word.lower() in words else text


def stopped(text: str, stop: str) -> str:
    """With an end: `stop`, where it has none."""
    if text.endswith(_ENDS) or text.rstrip(_CLOSING).endswith(_ENDS):
        return text
    return text.rstrip(",;:，、：") + stop


def unstopped(text: str) -> str:
    """Without its full stop, but with that of an abbreviation ("in the U.S.")."""
    if text.endswith("。"):
        return text[:-1]
    if not text.endswith(".") or text.endswith(_ABBREVIATED) or text[-3:-2] == ".":
        return text
    return text[:-1]
