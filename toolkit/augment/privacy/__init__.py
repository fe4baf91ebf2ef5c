"""Privacy: personal data is found, replaced by placeholders before it is sent, and put back afterwards."""

from toolkit.augment.privacy.audit import AuditFile
from toolkit.augment.privacy.detect import KINDS, Finder, Span, open_finder
from toolkit.augment.privacy.placeholders import Placeholders

__all__ = ["KINDS", "AuditFile", "Finder", "Placeholders", "Span", "open_finder"]
