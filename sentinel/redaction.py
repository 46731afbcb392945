"""Personal data replaced by pseudonyms: ``<EMAIL_1>``, ``<PHONE_2>``. By form, so names of people stay.

One `Redactor` serves all texts of one row, so that the same address is the same pseudonym in the prompt and in
both answers: an answer that repeats the user's address still repeats it. Deterministic; redacting twice changes
nothing more. Numbers are checked where their kind has a check (Luhn for cards, ISO 7064 mod 97 for IBANs), so
that most order numbers stay.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final

_PLACEHOLDER: Final = re.compile(r"<(EMAIL|PHONE|IP|IBAN|CARD|SSN|SECRET)_(\d{1,6})>")

_SECRET: Final = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\b(?:sk|pk|rk)[-_](?:[A-Za-z]{2,10}[-_])*[A-Za-z0-9_-]{16,}"
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_[A-Za-z0-9_]{20,}|\bglpat-[A-Za-z0-9_-]{16,}"
    r"|\bhf_[A-Za-z0-9]{16,}|\bxox[abprs]-[A-Za-z0-9-]{10,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|\bAIza[A-Za-z0-9_-]{30,}|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"
    r"|(?<=[Bb]earer )[A-Za-z0-9._~+/-]{16,}=*"
    r"|(?<=://)[^\s/:@<>]{1,64}:[^\s/@<>]{1,128}(?=@)",
    re.DOTALL,
)
_NAMED_SECRET: Final = re.compile(
    r"(?i)\b(?:api[ _-]?key|access[ _-]?key|secret(?:[ _-]?key)?|auth[ _-]?token|access[ _-]?token|token|password"
    r"|passwd|pwd)[\"']?\s*[:=]\s*[\"']?([^\s\"',;<>]{8,})"
)
_EMAIL: Final = re.compile(
    r"(?<![\w.+-])[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}\b"
)
_IBAN: Final = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b")
_CARD: Final = re.compile(r"(?<![\w.-])[2-6]\d{3}(?:[ -]?\d){9,15}(?![\w-])")
_SSN: Final = re.compile(r"(?<![\w-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])")
_IPV4: Final = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w]|\.\d)")
_IPV6: Final = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])")
_PHONE: Final = re.compile(
    r"(?<![\w.+-])(?:\+\d{1,3}(?:[ ./-]?\(?\d{1,5}\)?){2,6}"
    r"|\(\d{2,5}\)[ -]?\d{3,4}[ -]?\d{3,5}"
    r"|\d{3}[ .-]\d{3}[ .-]\d{4}"
    r"|(?<!\d )0\d{2,4}[ /-]\d{3,4}[ -]?\d{3,5}(?! \d))(?![\w-]|\.\d)"
)
_DIGITS: Final = re.compile(r"\D")


class Redactor:
    """The pseudonyms of one row. Not for use by two threads."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        """``texts`` are all texts of the row: numbers that they already use as pseudonyms are not given again."""
        self._names: dict[tuple[str, str], str] = {}
        self._last: Counter[str] = Counter()
        for text in texts:
            self._keep_clear(text)

    @property
    def counts(self) -> Mapping[str, int]:
        """Distinct values replaced so far, by kind."""
        return Counter(kind for kind, _ in self._names)

    def redact(self, text: str) -> str:
        """``text`` with pseudonyms; what already is a pseudonym stays as it is."""
        self._keep_clear(text)
        # What one replacement uncovers ("<PHONE_1>+49 170 …") is found by the next pass.
        while (cleaner := self._pass(text)) != text:
            text = cleaner
        return text

    def _pass(self, text: str) -> str:
        text = _SECRET.sub(self._named("SECRET"), text)
        text = _NAMED_SECRET.sub(self._value_of_secret, text)
        text = _EMAIL.sub(self._named("EMAIL", str.lower), text)
        text = self._checked(_IBAN, "IBAN", _is_iban, text)
        text = self._checked(_CARD, "CARD", _is_card, text)
        text = _SSN.sub(self._named("SSN"), text)
        text = self._checked(_IPV4, "IP", _is_address, text)
        text = self._checked(_IPV6, "IP", _is_address, text)
        return self._checked(_PHONE, "PHONE", _is_phone, text)

    def _keep_clear(self, text: str) -> None:
        # A text that was redacted before: a new value must not get the number of another one.
        for kind, number in _PLACEHOLDER.findall(text):
            self._last[kind] = max(self._last[kind], int(number))

    def _name(self, kind: str, value: str) -> str:
        found = self._names.get((kind, value))
        if found is None:
            self._last[kind] += 1
            found = self._names[kind, value] = f"<{kind}_{self._last[kind]}>"
        return found

    def _named(self, kind: str, identity: Callable[[str], str] = str) -> Callable[[re.Match[str]], str]:
        return lambda match: self._name(kind, identity(match[0]))

    def _value_of_secret(self, match: re.Match[str]) -> str:
        start = match.start(1) - match.start(0)
        return match[0][:start] + self._name("SECRET", match[1])

    def _checked(
        self, pattern: re.Pattern[str], kind: str, check: Callable[[str], str | None], text: str
    ) -> str:
        def replace(match: re.Match[str]) -> str:
            identity = check(match[0])
            return match[0] if identity is None else self._name(kind, identity)

        return pattern.sub(replace, text)


def _is_iban(text: str) -> str | None:
    code = text.replace(" ", "")
    if not 15 <= len(code) <= 34:
        return None
    number = int("".join(str(int(letter, 36)) for letter in code[4:] + code[:4]))
    return code if number % 97 == 1 else None


def _is_card(text: str) -> str | None:
    digits = _DIGITS.sub("", text)
    if not 13 <= len(digits) <= 19:
        return None
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return digits if total % 10 == 0 else None


def _is_address(text: str) -> str | None:
    if text == "::":  # a separator far more often than an address
        return None
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def _is_phone(text: str) -> str | None:
    digits = _DIGITS.sub("", text)
    return digits if 8 <= len(digits) <= 15 else None
