"""What may go wrong with an endpoint, as one line for the user, and whether it is worth another try."""

import email.utils
import time
from typing import Any

from toolkit.augment.teachers import RequestFailedError
from toolkit.errors import EdgePLMError, TeacherError

_SHOWN_CHARACTERS = 300
_LATER = "Try again later; what was answered is kept"
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0


def error_of(error: Exception, name: str, key: str) -> TeacherError:
    """A TeacherError without the key, and without the original, whose request holds it.

    It is a RequestFailedError where another request may well succeed.
    """
    import openai

    kind: type[TeacherError] = TeacherError
    if isinstance(error, openai.APITimeoutError):
        kind, what, mend = RequestFailedError, "does not answer in time", _LATER
    elif isinstance(error, openai.APIConnectionError):
        what, mend = "cannot be reached", "Check augment.teacher and the network"
        if _began(error):
            kind, what, mend = RequestFailedError, "breaks off in the middle of an answer", _LATER
    elif isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        what, mend = "refuses the key", "Check the key in the variable that augment.api_key_env names"
    elif isinstance(error, openai.NotFoundError):
        what, mend = "has no such model or address", "Check augment.model and augment.teacher"
    elif isinstance(error, openai.RateLimitError):
        what, mend = "refuses further requests for now", _LATER
        kind = TeacherError if _is_out_of_quota(error) else RequestFailedError
    elif isinstance(error, openai.APIStatusError):
        kind, what, mend = RequestFailedError, f"fails (status {error.status_code})", _LATER
    else:
        kind = RequestFailedError
        what, mend = "gives an answer that cannot be read", "Check that augment.teacher is OpenAI-compatible"
    return kind(what + _detail(error, key), where=name, mend=mend)


def is_worth_another_try(error: Exception) -> bool:
    """Whether the same request may succeed a little later."""
    import openai

    if isinstance(error, openai.RateLimitError):
        return not _is_out_of_quota(error)
    if isinstance(error, openai.APIStatusError):
        return error.status_code in (408, 409) or error.status_code >= 500
    return isinstance(error, openai.APIConnectionError)  # a timeout is one


def may_have_been_paid(error: Exception) -> bool:
    """Whether a request that failed may have been charged for: the endpoint may have begun to answer."""
    import openai

    return not isinstance(error, openai.APIStatusError) and (
        isinstance(error, openai.APITimeoutError) or _began(error)
    )


def wait_before(attempt: int, error: Exception) -> float:
    """Seconds until the next attempt: what the endpoint asks for, else half a second, doubled each time."""
    asked = retry_after(getattr(getattr(error, "response", None), "headers", {}))
    return asked if asked is not None else min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt)


def retry_after(headers: Any) -> float | None:
    """The Retry-After header in seconds (RFC 9110, 10.2.3: a number or a date); None without one."""
    milliseconds, value = headers.get("retry-after-ms"), headers.get("retry-after")
    for text, unit in ((milliseconds, 1000.0), (value, 1.0)):
        try:
            seconds = float(text) / unit
        except (TypeError, ValueError):
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None


def refusal_within(error: BaseException) -> EdgePLMError | None:
    """The error of ours that kept a request from being sent, if that is what the client's error wraps."""
    cause = error.__cause__
    return cause if isinstance(cause, EdgePLMError) else None


def _began(error: Exception) -> bool:
    """Whether a connection failed after it stood: what httpx calls a protocol or read error."""
    return type(error.__cause__).__name__ in (
        "RemoteProtocolError",
        "ReadError",
        "DecodingError",
    ) or not hasattr(error, "request")


def _is_out_of_quota(error: Any) -> bool:
    return getattr(error, "code", None) in ("insufficient_quota", "billing_hard_limit_reached")


def _detail(error: Exception, key: str) -> str:
    body = getattr(error, "body", None)
    said = body.get("message") if isinstance(body, dict) else None
    if not isinstance(said, str) or not said.strip():
        return ""
    text = " ".join(said.split())
    for secret in _parts_of_key(key):
        text = text.replace(secret, "[key]")
    return f' ("{text[:_SHOWN_CHARACTERS]}")'


def _parts_of_key(key: str) -> list[str]:
    """The key and its recognisable ends: some services repeat a key with its middle starred out."""
    return [key, key[:8], key[-4:]] if len(key) >= 12 else [key] if key else []
