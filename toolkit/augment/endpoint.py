"""A teacher behind an OpenAI-compatible endpoint."""

import ipaddress
import json
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from threading import Event
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from toolkit.augment import faults
from toolkit.augment.budget import Budget, BudgetSpentError, Price
from toolkit.augment.teachers import Completion, Message, RequestFailedError, Schema
from toolkit.errors import TeacherError
from toolkit.recipe_augment import Style

if TYPE_CHECKING:
    from toolkit.augment.privacy import AuditFile

_MESSAGE_TOKENS = 16  # what a chat template adds to a message, at most
_FAILURES = 3
_LONGEST_WAIT = 300.0  # seconds; an endpoint that wants more is given up for this run


class OpenAITeacher:
    """Chat completions of `model` at `base_url`.

    The key comes from the environment variable named `api_key_env`; on a loopback address there need be
    none. It is in no message, repr or log. A loopback address is never reached through a proxy, and a
    redirection is not followed: the examples go to the given host only. Every request body is in `audit`
    before it is sent, and every attempt is within `budget`. With `preview` nothing can be sent, and no key is
    needed: see the method of that name.

    Retries are made here and not by the client, which would not count them, and which does not wait as long
    as a Retry-After may ask for.
    """

    network = True

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        style: Style = "instruction",
        api_key_env: str = "OPENAI_API_KEY",
        temperature: float = 0.9,
        timeout: float = 120.0,
        retries: int = 4,
        concurrency: int = 4,
        answer_tokens: int = 2048,
        price: Price | None = None,
        budget: Budget | None = None,
        audit: "AuditFile | None" = None,
        preview: bool = False,
    ) -> None:
        import openai

        address, on_loopback = _checked(base_url)
        self.name = f"{model} at {address}"
        self.style = style
        self.price = price or Price()
        self._model = model
        self._key = "" if preview else _key(api_key_env, on_loopback)
        self._temperature = temperature
        self._answer_tokens = answer_tokens
        self._refused: dict[str, None] = {}
        self._retries = retries
        self._concurrency = concurrency
        self._budget = budget or Budget()
        self._audit = audit
        self._previewed: list[bytes] | None = [] if preview else None
        self._stop = Event()
        self._client = openai.OpenAI(
            base_url=base_url,
            api_key=self._key or "none-needed",
            timeout=timeout,
            max_retries=0,
            http_client=openai.DefaultHttpxClient(
                trust_env=not on_loopback,
                follow_redirects=False,
                event_hooks={"request": [self._before_sending]},
            ),
        )

    def __repr__(self) -> str:
        return f"OpenAITeacher({self.name})"

    def complete(self, messages: Sequence[Message], *, seed: int, schema: Schema | None = None) -> Completion:
        """Ask until there is an answer, `retries` times more at most.

        A setting that the endpoint refuses is left out from then on, with a note.
        """
        import openai

        attempt, failure = 0, ""
        while True:
            settings = self._settings(seed, schema)
            bound = (_most_tokens(messages, schema), self._answer_tokens)
            try:
                self._budget.reserve(*bound, self.price)
            except BudgetSpentError as error:
                if failure:  # the budget is not to blame: attempts that fail count too
                    raise BudgetSpentError(f"{failure} (after {attempt} attempts; {error})") from None
                raise
            used = (0, 0)
            try:
                answer = self._create(messages, settings)
                used = bound  # whatever it is, it was answered
                completion = self._completion(answer, bound)
                used = (completion.prompt_tokens, completion.completion_tokens)
            except openai.BadRequestError as error:
                refused = _refused_setting(error, settings)
                if refused is None:
                    raise faults.error_of(error, self.name, self._key) from None
                self._refused[refused] = None
            except (openai.OpenAIError, ValueError, TypeError, AttributeError) as error:
                # The last three: what the client raises on a body that is not an OpenAI answer.
                if refusal := faults.refusal_within(error):
                    raise refusal from None
                used = bound if faults.may_have_been_paid(error) else used
                self._wait_or_give_up(error, attempt)
                attempt, failure = attempt + 1, str(faults.error_of(error, self.name, self._key))
            else:
                return completion
            finally:
                self._budget.settle(bound, used, self.price)

    def complete_many(
        self,
        conversations: Sequence[Sequence[Message]],
        seeds: Sequence[int],
        schema: Schema | None = None,
    ) -> Iterator[tuple[int, Completion | TeacherError]]:
        """Ask a few at a time; a request that fails is yielded as its error.

        After an error that concerns all requests, or several failures in a row, no further one is started.
        """
        failure: TeacherError | None = None
        in_a_row = 0
        self._stop.clear()
        with ThreadPoolExecutor(max(1, self._concurrency)) as pool:
            futures = {
                pool.submit(self.complete, messages, seed=seed, schema=schema): index
                for index, (messages, seed) in enumerate(zip(conversations, seeds, strict=True))
            }
            try:
                for future in as_completed(futures):
                    if future.cancelled():
                        continue
                    error = future.exception()
                    if error is None:
                        in_a_row = 0
                        yield futures[future], future.result()
                        continue
                    if not isinstance(error, TeacherError):
                        raise error
                    in_a_row += not isinstance(error, BudgetSpentError)
                    if isinstance(error, RequestFailedError):
                        yield futures[future], error
                    if not isinstance(error, RequestFailedError) or in_a_row >= _FAILURES:
                        failure = failure or error
                        self._cancel(futures)
            finally:
                self._cancel(futures)
        if failure is not None:
            raise failure

    def preview(self, messages: Sequence[Message], *, seed: int, schema: Schema | None = None) -> bytes:
        """The body that `complete` would send first, made by the same client; of a `preview` teacher only."""
        import openai

        if self._previewed is None:
            raise TeacherError("was not opened for a preview", where=self.name)
        # What _before_sending raises comes as it is, or wrapped, by the client's version.
        with suppress(openai.APIConnectionError, TeacherError):
            self._create(messages, self._settings(seed, schema))
        return self._previewed.pop()

    def _create(self, messages: Sequence[Message], settings: dict[str, Any]) -> Any:
        create: Any = self._client.chat.completions.create  # its overloads know no settings by name
        return create(model=self._model, messages=list(messages), **settings)

    def _before_sending(self, request: Any) -> None:
        if self._previewed is not None:
            self._previewed.append(bytes(request.content))
            raise TeacherError("a preview is not sent", where=self.name)
        if self._audit is not None:
            self._audit.write(bytes(request.content))

    def _settings(self, seed: int, schema: Schema | None) -> dict[str, Any]:
        wished: dict[str, Any] = {"temperature": self._temperature, "seed": seed}
        # The newer name of the same limit is used where the older one is refused.
        limit = "max_completion_tokens" if "max_tokens" in self._refused else "max_tokens"
        wished[limit] = self._answer_tokens
        if schema is not None:
            form = {"name": "examples", "strict": True, "schema": schema}
            wished["response_format"] = {"type": "json_schema", "json_schema": form}
        return {name: value for name, value in wished.items() if name not in self._refused}

    def _wait_or_give_up(self, error: Exception, attempt: int) -> None:
        if attempt >= self._retries or not faults.is_worth_another_try(error):
            raise faults.error_of(error, self.name, self._key) from None
        seconds = faults.wait_before(attempt, error)
        if seconds > _LONGEST_WAIT:
            raise TeacherError(
                f"asks to wait {seconds:.0f} s",
                where=self.name,
                mend="Run again after that; what was answered is kept",
            ) from None
        if self._stop.wait(seconds):
            raise faults.error_of(error, self.name, self._key) from None

    def _completion(self, answer: Any, bound: tuple[int, int]) -> Completion:
        try:
            choice = answer.choices[0]
            text, usage = str(choice.message.content or ""), answer.usage
            notes = [
                f"the endpoint refuses the setting {name}; its own default was used"
                for name in self._refused
                if name != "max_tokens" or "max_completion_tokens" in self._refused
            ]
            if usage is None:
                notes.append("the endpoint counts no tokens; upper bounds are counted in their place")
            return Completion(
                text=text,
                prompt_tokens=int(usage.prompt_tokens) if usage else bound[0],
                completion_tokens=int(usage.completion_tokens) if usage else len(text.encode()),
                truncated=choice.finish_reason == "length",
                notes=tuple(notes),
            )
        except (AttributeError, IndexError, TypeError, ValueError):
            raise RequestFailedError(
                "its answer is not an OpenAI chat completion",
                where=self.name,
                mend="Check augment.teacher: the base URL usually ends in /v1",
            ) from None

    def _cancel(self, futures: Any) -> None:
        self._stop.set()
        for future in futures:
            future.cancel()


def _most_tokens(messages: Sequence[Message], schema: Schema | None) -> int:
    """No tokenizer makes more tokens than there are bytes; what the chat template adds comes on top."""
    texts = [message["content"] for message in messages] + ([json.dumps(schema)] if schema else [])
    return sum(len(text.encode("utf-8", "surrogatepass")) + _MESSAGE_TOKENS for text in texts)


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


def _refused_setting(error: Any, settings: dict[str, Any]) -> str | None:
    """The optional setting that a 400 answer is about: the newest models refuse some."""
    named = getattr(error, "param", None)
    if named in settings:
        return str(named)
    body = getattr(error, "body", None)
    message = str(body.get("message", "")) if isinstance(body, dict) else ""
    return next((name for name in settings if re.search(rf"\b{name}\b", message)), None)
