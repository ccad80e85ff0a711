"""Texts as the numbers of a BERT vocabulary's pieces. Python alone: the file goes into a pipeline's folder too."""

import unicodedata

PAD, UNKNOWN, FIRST, LAST = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
LONGEST_WORD = 100


def pieces(text: str, numbers: dict[str, int], length: int) -> list[int]:
    """The `length` numbers of a text's pieces, cut or padded, for `numbers` of all pieces by name.

    Lower case without accents; words and punctuation apart; each word from its longest known beginning on, inner
    pieces marked with ##; a word with an unknown piece is unknown as a whole.
    """
    found = [numbers[FIRST]]
    for word in words(text):
        found += _word(word, numbers)
    found = [*found[: length - 1], numbers[LAST]]
    return found + [numbers[PAD]] * (length - len(found))


def words(text: str) -> list[str]:
    """A text's words, lower case, every sign of punctuation by itself."""
    plain = unicodedata.normalize("NFD", text.lower())
    spaced = "".join(
        f" {sign} " if _stands_alone(sign) else sign
        for sign in plain
        if unicodedata.category(sign) != "Mn" and (sign.isspace() or unicodedata.category(sign)[0] != "C")
    )
    return spaced.split()


def _stands_alone(sign: str) -> bool:
    """Whether a sign is a word by itself: punctuation, all of ASCII's other signs, and Chinese characters."""
    if sign.isascii():
        return not sign.isalnum() and not sign.isspace()
    return unicodedata.category(sign)[0] == "P" or "一" <= sign <= "鿿"


def _word(word: str, numbers: dict[str, int]) -> list[int]:
    if len(word) > LONGEST_WORD:
        return [numbers[UNKNOWN]]
    found: list[int] = []
    start = 0
    while start < len(word):
        mark = "##" if start else ""
        for end in range(len(word), start, -1):
            if mark + word[start:end] in numbers:
                found.append(numbers[mark + word[start:end]])
                start = end
                break
        else:
            return [numbers[UNKNOWN]]
    return found
