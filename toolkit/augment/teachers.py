"""Teachers: the models that write synthetic examples, behind one small interface."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from toolkit.errors import TeacherError
from toolkit.progress import SILENT, Progress

if TYPE_CHECKING:
    from toolkit.models import BaseModel
    from toolkit.profiles import Example
    from toolkit.recipe import AugmentRecipe

Message = dict[str, str]
Style = Literal["instruction", "pattern"]


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


class Teacher(Protocol):
    """A model that answers chat messages.

    `style` says how it is best asked: "instruction" for a model that follows instructions, "pattern" for a
    small one that goes on with a few-shot pattern. A pattern's last message is the assistant's own
    beginning: the teacher continues it, and the completion's text does not repeat it.
    """

    @property
    def name(self) -> str:
        """Model and place, for reports; never holds a key."""
        ...

    @property
    def style(self) -> Style:
        """How this teacher is asked."""
        ...

    def complete(self, messages: Sequence[Message], *, seed: int) -> Completion:
        """Answer one conversation. Raises TeacherError."""
        ...

    def complete_many(
        self, conversations: Sequence[Sequence[Message]], seeds: Sequence[int]
    ) -> Iterator[tuple[int, Completion]]:
        """Yield (index, answer) as answers arrive, in any order.

        Raises TeacherError only after every answer that did arrive was yielded.
        """
        ...


def open_teacher(
    recipe: "AugmentRecipe",
    *,
    base: "BaseModel | None" = None,
    source: str | None = None,
    history: "Sequence[Example]" = (),
    progress: Progress = SILENT,
) -> Teacher:
    """The teacher that a recipe names.

    `base` is the model that `local` means; `source` replaces `recipe.teacher` where its path was made
    absolute. `history` bounds how long a local teacher's answers may become. Raises TeacherError if the
    recipe forbids uploads and the teacher is an endpoint, or the key is missing; ModelError if a local
    model cannot be loaded.
    """
    from toolkit.recipe import is_endpoint

    named = source or recipe.teacher
    if is_endpoint(named):
        if recipe.upload == "never":
            raise TeacherError(
                f"the recipe forbids uploads, and {_host(named)} is reached over the network",
                where="augment.upload",
                mend="Set augment.teacher to local or local:SOURCE, or augment.upload to allow",
            )
        from toolkit.augment.endpoint import OpenAITeacher

        if not recipe.model:
            raise TeacherError(
                "no model named for the endpoint", where="augment.model", mend="Name the model to ask there"
            )
        return OpenAITeacher(
            named, recipe.model, api_key_env=recipe.api_key_env, temperature=recipe.temperature
        )
    return _open_local(named, base, history, recipe.temperature, progress)


def _open_local(
    named: str,
    base: "BaseModel | None",
    history: "Sequence[Example]",
    temperature: float,
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
    tokenizer = load_tokenizer(base)
    return LocalTeacher(
        load_model(base),
        tokenizer,
        name=f"{base.source} ({base.sha256[:12]})",
        temperature=temperature,
        max_new_tokens=room_for_answer(history, tokenizer),
    )


def _host(address: str) -> str:
    from urllib.parse import urlsplit

    return urlsplit(address).hostname or "the endpoint"
