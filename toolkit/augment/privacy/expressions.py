"""Expressions for personal data that Presidio's recognisers leave out, or find only beside certain words.

They are expressions of the `regex` library, and err on the side of finding too much.
"""

# ruff: noqa: E501
_STREET = (
    r"Street|St|Road|Rd|Avenue|Ave|Lane|Ln|Drive|Dr|Close|Court|Ct|Crescent|Cres|Square|Sq|Terrace|Place|Pl|"
    r"Boulevard|Blvd|Way|Parkway|Pkwy|Highway|Hwy|Mews|Row|Gardens|Grove|Hill|Quay|Circle|Cir|Walk|Green|Park|"
    r"Parade|Rise|View|Trail"
)
_WORD = r"\p{Lu}[\p{L}'’.-]*"
_PLACE_AFTER = (
    rf"(?:\s*,\s*(?:(?:Flat|Apt\.?|Apartment|Unit|Suite|#)\s*\w+|{_WORD}(?:[ -]{_WORD}){{0,3}})){{0,3}}"
)
_CODE_AFTER = r"(?:,?\s+(?:[A-Z]{2}\s+)?\d{5}(?:-\d{4})?\b|,?\s+[A-Z]{1,2}\d[A-Z\d]?\s*\d[A-Z]{2}\b)?"
# Expressions of the `regex` library, case-sensitive unless they say otherwise.
PATTERNS: tuple[tuple[str, str], ...] = (
    ("url", r"(?i)\b(?:[a-z][a-z0-9+.-]{1,20}://|www\.)[^\s<>\"']*[^\s<>\"'.,;:!?)\]}]"),
    ("url", r"(?i)\b(?:[a-z0-9-]+\.)+(?:com|org|net|edu|gov|io|me|info|co|uk|de|fr|eu|ch|nl|it|es|"
     r"ca|au|us|dev|app|blog|site|xyz|tv|ly|gl)(?:/[^\s<>\"']*[^\s<>\"'.,;:!?)\]}])?(?![\w@])"),
    ("email", r"[\w.!#$%&'*+/=?^`{|}~-]+@[\w-]+(?:\.[\w-]+)+"),
    ("email", r"(?i)\b[\w.+-]+\s*[\[(]\s*at\s*[\])]\s*[\w-]+(?:\s*[\[(]\s*dot\s*[\])]\s*[\w-]+|\.[\w-]+)+"),
    ("address", rf"\b\d{{1,5}}[A-Za-z]?\s+(?:{_WORD}\s+){{1,4}}(?:{_STREET})\b\.?{_PLACE_AFTER}{_CODE_AFTER}"),
    ("address", r"\b\p{Lu}[\p{L}.-]*(?:straße|strasse|str\.|weg|gasse|platz|allee|gata|vägen|straat|laan)"
     r"\s+\d{1,4}\s?[a-z]?\b(?:\s*,?\s*\d{4,5}\s+\p{Lu}[\p{L}-]+)?"),
    ("address", r"(?i)\b(?:\d{1,4},?\s+)?(?:rue|avenue|boulevard|calle|avenida|via|piazza|rua)\s"
     r"(?:d[eu]\s|de\s?la\s|des\s|della\s|dell['’])?\p{L}[\p{L}'’ -]{2,30}?[,\s]+\d{1,5}\b"),
    ("address", r"(?i)\bP\.?\s?O\.?\s?Box\s+\d+\b"),
    ("address", r"\b[A-PR-UWYZ][A-HK-Y]?\d[A-Z\d]?\s?\d[ABD-HJLNP-UW-Z]{2}\b"),
    ("address", r"\b[A-Z]{2}\s+\d{5}(?:-\d{4})?\b"),
    ("address", r"[-+]?\d{1,3}\.\d{4,}\s*[,;]\s*[-+]?\d{1,3}\.\d{4,}"),
    ("card", r"\b(?:\d[ -]?){12,18}\d\b"),
    ("phone", r"(?<![\w.])(?:\+|00|\()?\d(?:[ ()./-]{0,2}\d){6,14}(?!\w|\.\d)"),
    ("id", r"(?<![\w@])@\w[\w.]*\w"),
    ("id", r"\b(?=[\w-]*\p{L})(?=(?:[\w-]*\d){4})[\w-]{6,}\b"),
    ("id", r"\b(?:sk|pk|ghp|gho|xox[abp]|AKIA|eyJ)[\w-]{12,}(?:\.[\w-]+){0,2}"),
    ("id", r"(?i)\b(?:id|no|nr|number|account|acct|ref|reference|order|invoice|ticket|case|policy|booking|"
     r"passport|licen[cs]e|member(?:ship)?|customer|patient|pin|iban|ssn)\b\.?\s*(?:number|no\.?|nr\.?|id|code)?\s*"
     r"(?:is|:|#|=)?\s*#?\s*\K(?=[\w/-]*\d{3})[\w/-]{4,}\b"),
)  # fmt: skip
# Years and dates look like numbers of seven digits and more; they are no one's.
NOT_SOMEBODYS = (
    r"(?:1[5-9]|20)\d\d\s?[-/]\s?(?:(?:1[5-9]|20)\d\d|\d\d?[-/.]\d\d?)|\d\d?[-/.]\d\d?[-/.](?:1[5-9]|20)\d\d"
)
