"""Teachers: the models that write synthetic examples, behind one small interface."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from toolkit.augment.budget import Budget, Price
from toolkit.errors import TeacherError
from toolkit.progress import SILENT, Progress
from toolkit.recipe_augment import PATTERN, Style, is_endpoint

if TYPE_CHECKING:
    from toolkit.augment.privacy import AuditFile
    from toolkit.models import BaseModel
    from toolkit.profiles import Example
    from toolkit.recipe import AugmentRecipe, TeacherRecipe

Message = dict[str, str]
Schema = dict[str, Any]  # a JSON schema


@dataclass(frozen=True)
class Completion:
    """What a teacher wrote.

    `truncated`: it stopped at the token limit. `notes`: what of the request could not be honoured, such as
    a sampling setting that the endpoint refuses.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    truncated: bool = False
    notes: tuple[str, ...] = ()


class RequestFailedError(TeacherError):
    """One request that came to nothing; the next may well be answered."""


class Teacher(Protocol):
    """A model that answers chat messages.

    `style` says how it is best asked: "instruction" for a model that follows instructions, "pattern" for a
    small one that goes on with a few-shot pattern. Where the teacher is not reached over the network, a
    pattern's last message is the assistant's own beginning: the teacher continues it, and the completion's
    text does not repeat it.
    """

    @property
    def name(self) -> str:
        """Model and place, for reports; never holds a key."""
        ...

    @property
    def style(self) -> Style:
        """How this teacher is asked."""
        ...

    @property
    def network(self) -> bool:
        """Whether what it is asked leaves this process for an address, be it on this machine."""
        ...

    @property
    def price(self) -> Price:
        """What its tokens cost."""
        ...

    def complete(self, messages: Sequence[Message], *, seed: int, schema: Schema | None = None) -> Completion:
        """Answer one conversation, in the form of `schema` if it can. Raises TeacherError."""
        ...

    def complete_many(
        self,
        conversations: Sequence[Sequence[Message]],
        seeds: Sequence[int],
        schema: Schema | None = None,
    ) -> Iterator[tuple[int, Completion | TeacherError]]:
        """Yield (index, answer) as answers arrive, in any order; a request that failed gives its error.

        Raises TeacherError, where no further request makes sense, only after every answer that did arrive
        was yielded.
        """
        ...


def open_teachers(
    recipe: "AugmentRecipe",
    *,
    base: "BaseModel | None" = None,
    resolve: Callable[[str], str] = str,
    history: "Sequence[Example]" = (),
    budget: Budget | None = None,
    audit: "AuditFile | None" = None,
    preview: bool = False,
    progress: Progress = SILENT,
) -> list[Teacher]:
    """The teachers that a recipe names, in its order.

    `base` is the model that `local` means; `resolve` makes a local source absolute. `history` bounds how long
    a local teacher's answers may become. With `preview`, only network teachers are opened, for a look at what
    they would be sent: no key is needed and nothing can be sent. Raises TeacherError if the recipe forbids
    uploads and a teacher is an endpoint, or a key is missing; ModelError if a local model cannot be loaded.
    """
    opened: list[Teacher] = []
    for each in recipe.all_teachers:
        source = resolve(each.teacher)
        if is_network(source, recipe):
            opened.append(_open_endpoint(source, each, recipe, budget, audit, preview))
        elif not preview:
            opened.append(_open_local(source, each, recipe, base, history, progress))
    return opened


def is_network(source: str, recipe: "AugmentRecipe") -> bool:
    """Whether a teacher is reached over the network; TeacherError if so and the recipe forbids it."""
    if not is_endpoint(source):
        return False
    if recipe.upload == "never":
        raise TeacherError(
            f"the recipe forbids uploads, and {_host(source)} is reached over the network",
            where="augment.upload",
            mend="Set augment.teacher to local or local:SOURCE, or augment.upload to allow",
        )
    return True


def _open_endpoint(
    source: str,
    which: "TeacherRecipe",
    recipe: "AugmentRecipe",
    budget: Budget | None,
    audit: "AuditFile | None",
    preview: bool,
) -> Teacher:
    from toolkit.augment.endpoint import OpenAITeacher

    if not which.model:
        raise TeacherError(
            "no model named for the endpoint", where="augment.model", mend="Name the model to ask there"
        )
    return OpenAITeacher(
        source,
        which.model,
        style=which.asked_for,
        api_key_env=which.api_key_env,
        temperature=recipe.temperature,
        timeout=recipe.timeout,
        retries=recipe.retries,
        concurrency=recipe.concurrency,
        answer_tokens=recipe.answer_tokens,
        price=Price(which.prompt_price, which.completion_price),
        budget=budget,
        audit=audit,
        preview=preview,
    )


def _open_local(
    named: str,
    which: "TeacherRecipe",
    recipe: "AugmentRecipe",
    base: "BaseModel | None",
    history: "Sequence[Example]",
    progress: Progress,
) -> Teacher:
    from toolkit.augment.local import LocalTeacher, room_for_answer
    from toolkit.models import load_model, load_tokenizer, resolve_model

    if named != "local":
        base = resolve_model(named.removeprefix("local:"), progress)
    if base is None:
        raise TeacherError(
            "`local` means the base model, and none was given",
            where="augment.teacher",
            mend="Name a model: local:SOURCE",
        )
    tokenizer, style = load_tokenizer(base), which.asked_for
    examples = 1 if style == PATTERN else recipe.examples_per_request
    return LocalTeacher(
        load_model(base),
        tokenizer,
        name=f"{base.source} ({base.sha256[:12]})",
        style=style,
        temperature=recipe.temperature,
        max_new_tokens=examples * room_for_answer(history, tokenizer),
    )


def _host(address: str) -> str:
    from urllib.parse import urlsplit

    return urlsplit(address).hostname or "the endpoint"
