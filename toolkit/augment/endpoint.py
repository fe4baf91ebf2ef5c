"""A teacher behind an OpenAI-compatible endpoint."""

import ipaddress
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any
from urllib.parse import urlsplit

from toolkit.augment.teachers import Completion, Message, Style
from toolkit.errors import TeacherError

_SHOWN_CHARACTERS = 300


class OpenAITeacher:
    """Chat completions of `model` at `base_url`.

    The key comes from the environment variable named `api_key_env`; on a loopback address there need be
    none. It is in no message, repr or log. A loopback address is never reached through a proxy, and a
    redirection is not followed: the examples go to the given host only.
    """

    style: Style = "instruction"

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key_env: str = "OPENAI_API_KEY",
        temperature: float = 0.9,
        timeout: float = 120.0,
        max_retries: int = 3,
        concurrency: int = 4,
    ) -> None:
        import openai

        address, on_loopback = _checked(base_url)
        self.name = f"{model} at {address}"
        self._model = model
        self._key = _key(api_key_env, on_loopback)
        self._temperature = temperature
        self._refused: frozenset[str] = frozenset()
        self._concurrency = concurrency
        self._client = openai.OpenAI(
            base_url=base_url,
            api_key=self._key or "none-needed",
            timeout=timeout,
            max_retries=max_retries,
            http_client=openai.DefaultHttpxClient(trust_env=not on_loopback, follow_redirects=False),
        )

    def __repr__(self) -> str:
        return f"OpenAITeacher({self.name})"

    def complete(self, messages: Sequence[Message], *, seed: int) -> Completion:
        """Ask once; a sampling setting that the endpoint refuses is left out from then on, with a note."""
        import openai

        create: Any = self._client.chat.completions.create  # its overloads know no settings by name
        while True:
            wished = {"temperature": self._temperature, "seed": seed}
            settings = {name: value for name, value in wished.items() if name not in self._refused}
            try:
                answer = create(model=self._model, messages=list(messages), **settings)
            except openai.BadRequestError as error:
                refused = _refused_setting(error, settings)
                if refused is None:
                    raise self._error(error) from None
                self._refused |= {refused}
            except (openai.OpenAIError, ValueError, TypeError, AttributeError) as error:
                # The last three: what the client raises on a body that is not an OpenAI answer.
                raise self._error(error) from None
            else:
                return self._completion(answer)

    def complete_many(
        self, conversations: Sequence[Sequence[Message]], seeds: Sequence[int]
    ) -> Iterator[tuple[int, Completion]]:
        """Ask a few at a time; after a failure no further request is started."""
        failure: TeacherError | None = None
        with ThreadPoolExecutor(max(1, self._concurrency)) as pool:
            futures = {
                pool.submit(self.complete, messages, seed=seed): index
                for index, (messages, seed) in enumerate(zip(conversations, seeds, strict=True))
            }
            try:
                for future in as_completed(futures):
                    if future.cancelled():
                        continue
                    error = future.exception()
                    if error is None:
                        yield futures[future], future.result()
                    elif isinstance(error, TeacherError):
                        failure = failure or error
                        _cancel(futures)
                    else:
                        raise error
            finally:
                _cancel(futures)
        if failure is not None:
            raise failure

    def _completion(self, answer: Any) -> Completion:
        try:
            choice = answer.choices[0]
            text, usage = choice.message.content or "", answer.usage
            return Completion(
                text=str(text),
                prompt_tokens=int(usage.prompt_tokens) if usage else 0,
                completion_tokens=int(usage.completion_tokens) if usage else 0,
                truncated=choice.finish_reason == "length",
                notes=tuple(
                    f"the endpoint refuses the setting {name}; its own default was used"
                    for name in sorted(self._refused)
                ),
            )
        except (AttributeError, IndexError, TypeError, ValueError):
            raise TeacherError(
                "its answer is not an OpenAI chat completion",
                where=self.name,
                mend="Check augment.teacher: the base URL usually ends in /v1",
            ) from None

    def _error(self, error: Exception) -> TeacherError:
        """A TeacherError in one line, without the key, and without the original whose request holds it."""
        import openai

        if isinstance(error, openai.APITimeoutError):
            what, mend = "does not answer in time", "Try again later; what was answered is kept"
        elif isinstance(error, openai.APIConnectionError):
            what, mend = "cannot be reached", "Check augment.teacher and the network"
        elif isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            what, mend = "refuses the key", "Check the key in the variable that augment.api_key_env names"
        elif isinstance(error, openai.NotFoundError):
            what, mend = "has no such model or address", "Check augment.model and augment.teacher"
        elif isinstance(error, openai.RateLimitError):
            what, mend = "refuses further requests for now", "Try again later; what was answered is kept"
        elif isinstance(error, openai.APIStatusError):
            what, mend = f"fails (status {error.status_code})", "Try again later; what was answered is kept"
        else:
            what, mend = (
                "gives an answer that cannot be read",
                "Check that augment.teacher is OpenAI-compatible",
            )
        return TeacherError(what + self._detail(error), where=self.name, mend=mend)

    def _detail(self, error: Exception) -> str:
        body = getattr(error, "body", None)
        said = body.get("message") if isinstance(body, dict) else None
        if not isinstance(said, str) or not said.strip():
            return ""
        text = " ".join(said.split())
        for secret in _parts_of_key(self._key):
            text = text.replace(secret, "[key]")
        return f' ("{text[:_SHOWN_CHARACTERS]}")'


def _checked(base_url: str) -> tuple[str, bool]:
    """The address as reports show it, and whether it is this machine's own."""
    from toolkit.recipe import is_endpoint

    try:
        parts = urlsplit(base_url)
        fine = (
            is_endpoint(base_url) and parts.hostname and not (parts.username or parts.query or parts.fragment)
        )
    except ValueError:
        fine = False
    if not fine:
        raise TeacherError(
            "the teacher's address must be http(s)://host[:port]/path, without user name, query or fragment",
            where="augment.teacher",
            mend="Put the key into an environment variable and name that in augment.api_key_env",
        )
    return f"{parts.netloc}{parts.path.rstrip('/')}", _is_loopback(parts.hostname or "")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _key(variable: str, on_loopback: bool) -> str:
    key = os.environ.get(variable, "").strip()
    if not key and not on_loopback:
        raise TeacherError(
            f"the environment variable {variable} is not set, and the endpoint needs a key",
            where="augment.api_key_env",
            mend=f"Set it (export {variable}=...), or name another variable",
        )
    if not (key.isascii() and key.isprintable()):
        raise TeacherError(
            f"the environment variable {variable} holds characters that no key has",
            where="augment.api_key_env",
            mend="Set it to the key alone, on one line",
        )
    return key


def _parts_of_key(key: str) -> list[str]:
    """The key and its recognisable ends: some services repeat a key with its middle starred out."""
    return [key, key[:8], key[-4:]] if len(key) >= 12 else [key] if key else []


def _refused_setting(error: Any, settings: dict[str, Any]) -> str | None:
    """The optional setting that a 400 answer is about: the newest models refuse some."""
    named = getattr(error, "param", None)
    if named in settings:
        return str(named)
    body = getattr(error, "body", None)
    message = str(body.get("message", "")) if isinstance(body, dict) else ""
    return next((name for name in settings if re.search(rf"\b{name}\b", message)), None)


def _cancel(futures: Any) -> None:
    for future in futures:
        future.cancel()
