"""EdgePLM's toolkit: from one person's examples to a personalised model on a small device."""

__version__ = "0.1.0"
