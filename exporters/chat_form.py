"""The chat template as text before and after a message, checked against the template itself.

Apps on phones have no Jinja. Training knew one user message and one answer, so what they need of a template
is the text around a single message, and most templates are no more than that.
"""

from exporters.bundle import ChatForm
from toolkit.chat import ChatFormat

_MARK = "EdgePLM's message"
# Blanks at the ends, lines, braces, quotes, other scripts, nothing at all: what a template might treat apart.
PROBES = (
    "What is the capital of France?",
    "  blanks and\ttabs  \n",
    "two\nlines\n\n",
    "{{ braces }} {% raw %} \"quotes\" \\ 'n' <b>&amp;</b>",
    "Größe 日本語 \U0001f6e0",
    "/no_think <think>a</think> [INST] b [/INST]",
    "x" * 2000,
    " ",
    "",
)


def chat_form(chat: ChatFormat) -> ChatForm | None:
    """The form that gives `chat`'s own prompts; None if the template does more than put text around them.

    A template that writes the date has the date of the export in its form. Raises ModelError for a template
    that cannot be used.
    """
    before, found, after = chat.render(_MARK).partition(_MARK)
    if not found or _MARK in after:
        return None
    expected = [chat.render(probe) for probe in PROBES]
    for trim in (False, True):
        form = ChatForm(before, after, trim)
        if [form.render(probe) for probe in PROBES] == expected:
            return form
    return None
