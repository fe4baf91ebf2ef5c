"""The `augment` section of a recipe: teachers, privacy, budget, selection."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from toolkit.recipe_select import SelectRecipe
from toolkit.schema import Conflict, Settings, setting
from toolkit.schema_fields import shown

# What may be hidden from network teachers; toolkit.augment.privacy knows how each is found.
HIDEABLE = ("url", "email", "iban", "card", "address", "phone", "ip", "id", "person", "place", "organisation",
            "name")  # fmt: skip
HIDDEN = tuple(kind for kind in HIDEABLE if kind not in ("place", "organisation"))
NOTHING = "nothing"
Style = Literal["instruction", "pattern"]
STYLES: tuple[Style, ...] = get_args(Style)
INSTRUCTION, PATTERN = STYLES
_REQUESTS_FOR_ONE = 4  # where the recipe sets no limit: what is written badly is asked for again


def is_endpoint(teacher: str) -> bool:
    """Whether a teacher is reached over the network: an http or https address."""
    return teacher.lower().startswith(("http://", "https://"))


def _is_teacher(teacher: str) -> bool:
    if teacher == "local" or re.fullmatch(r"local:\S.*", teacher):
        return True
    # No user name, query or fragment: they are where keys would be, and keys come from the environment only.
    return re.fullmatch(r"https?://[^\s/@?#]+(/[^\s@?#]*)?", teacher, re.IGNORECASE) is not None


def _is_hide(kinds: tuple[str, ...]) -> bool:
    return kinds == (NOTHING,) or set(kinds) <= set(HIDEABLE)


_SOURCE = (
    "`local`: the base model itself, on this machine. `local:SOURCE`: another model on this machine, SOURCE "
    "being written like the recipe's own `model`. An address: the base URL of an OpenAI-compatible endpoint, "
    "such as https://api.openai.com/v1."
)

_STYLE = (
    "How the teacher is asked. `instruction`: told what to write, for several examples at a time as JSON. "
    "`pattern`: shown a conversation of examples to go on with, one example a request, which models below a "
    "billion parameters or so do better. null: an instruction for an address, a pattern for a local model."
)


@dataclass(frozen=True, kw_only=True)
class TeacherRecipe(Settings):
    """One more teacher, with the fields that `teacher`, `model` and so on are for the first."""

    teacher: str = setting(
        ...,
        f"Who writes. {_SOURCE}",
        accepts="local, local:SOURCE, or an http(s) address without user name or query",
        test=_is_teacher,
    )
    model: str | None = setting(None, "The model's name at the endpoint.")
    api_key_env: str = setting(
        "OPENAI_API_KEY",
        "The name of the environment variable that holds this endpoint's key; never the key itself.",
        accepts="the name of an environment variable, in capitals, digits and underscores",
        test=lambda name: re.fullmatch(r"[A-Z_][A-Z0-9_]*", name) is not None,
        secret=True,
    )
    style: str | None = setting(None, _STYLE, choices=STYLES)
    prompt_price: float = setting(0.0, "Price of a million prompt tokens.", at_least=0)
    completion_price: float = setting(0.0, "Price of a million completion tokens.", at_least=0)

    @property
    def asked_for(self) -> Style:
        """How it is asked."""
        usual = INSTRUCTION if is_endpoint(self.teacher) else PATTERN
        return cast(Style, self.style or usual)

    @staticmethod
    def conflicts(values: Mapping[str, Any]) -> Iterator[Conflict]:
        """An endpoint needs a model name; a local teacher takes none."""
        model, network = values["model"], is_endpoint(values["teacher"] or "")
        if network and model is None:
            yield Conflict(
                ("model", "teacher"),
                "missing, and the teacher is an address; accepted: the model's name there",
            )
        if not network and model is not None:
            yield Conflict(
                ("model", "teacher"),
                f"found {shown(model)}, and the teacher is local; accepted: null, or an http(s) address as "
                "teacher (local:SOURCE chooses a local model)",
            )


@dataclass(frozen=True, kw_only=True)
class AugmentRecipe(Settings):
    """Synthetic examples in the person's manner, written by a teacher model."""

    enabled: bool = setting(
        True, "Whether a teacher writes synthetic examples; if not, the history alone trains."
    )
    teacher: str = setting(
        "local",
        f"Who writes the examples. {_SOURCE}",
        accepts="local, local:SOURCE, or an http(s) address without user name or query",
        test=_is_teacher,
    )
    model: str | None = setting(
        None, "The model's name at the endpoint. Needed if `teacher` is an address, and only then."
    )
    api_key_env: str = setting(
        "OPENAI_API_KEY",
        "The name of the environment variable that holds the endpoint's key; never the key itself.",
        accepts="the name of an environment variable, in capitals, digits and underscores",
        test=lambda name: re.fullmatch(r"[A-Z_][A-Z0-9_]*", name) is not None,
        secret=True,
    )
    style: str | None = setting(None, _STYLE, choices=STYLES)
    prompt_price: float = setting(
        0.0, "Price of a million prompt tokens, in whatever currency `max_cost` is in.", at_least=0
    )
    completion_price: float = setting(0.0, "Price of a million completion tokens.", at_least=0)
    more_teachers: tuple[TeacherRecipe, ...] = setting(
        (),
        "Teachers beside `teacher`; requests go to all of them in turn. The examples of several vary more "
        "than those of one.",
    )
    ratio: float = setting(
        1.0,
        "How much: synthetic examples for each real one that is trained on (the history without "
        "finetune.validation). A synthetic example's weight is finetune.synthetic_weight. "
        "`edgeplm augment --sweep` measures which ratio is best.",
        at_least=0,
        at_most=100,
    )
    examples: int = setting(
        100, "Synthetic examples to keep, at most, whatever `ratio` asks for.", at_least=0, at_most=10_000
    )
    rounds: int = setting(
        1,
        "Rounds of writing. After each but the last an adapter is trained on what there is, and the next "
        "shows the teacher the real examples that the adapter gets wrong or is least sure of, for more like "
        "them.",
        at_least=1,
        at_most=10,
    )
    failure_share: float = setting(
        0.5,
        "Share of all synthetic examples that the rounds after the first may write; more would teach the "
        "adapter that the hard cases are the usual ones.",
        above=0,
        below=1,
    )
    examples_per_request: int = setting(
        4, "Examples that the teacher is asked for in one request.", at_least=1, at_most=20
    )
    shots: int = setting(
        6, "Real examples that each request shows to the teacher, at most.", at_least=1, at_most=50
    )
    temperature: float = setting(
        0.9, "The teacher's sampling temperature; 0 is greedy decoding.", at_least=0, at_most=2
    )
    max_requests: int | None = setting(
        None,
        "Requests to the teachers, at most, even if fewer examples than wanted were kept; null: four times "
        "as many as would do if all that is written were kept.",
        at_least=1,
    )
    max_tokens: int | None = setting(
        None,
        "Tokens that network teachers may use together, prompts and answers; the run stops before it could "
        "exceed them.",
        at_least=1,
    )
    max_cost: float | None = setting(
        None,
        "Money that network teachers may cost together, by the prices given; the run stops before it could "
        "exceed it.",
        above=0,
    )
    answer_tokens: int = setting(
        2048, "Tokens that a network teacher may write in one answer.", at_least=16, at_most=65_536
    )
    concurrency: int = setting(
        4, "Requests that are under way at a time at one network teacher.", at_least=1, at_most=64
    )
    timeout: float = setting(120.0, "Longest wait for an answer, in seconds.", above=0)
    retries: int = setting(
        4,
        "Further attempts at a request that failed for a cause that may pass (no connection, no answer in "
        "time, status 408, 409, 429 or 5xx), after a growing wait or as long as Retry-After asks for.",
        at_least=0,
        at_most=20,
    )
    near_duplicate: float = setting(
        0.85,
        "Similarity ratio (0: nothing in common, 1: equal) of two inputs above which they count as the same, "
        "and only one is kept.",
        at_least=0,
        at_most=1,
    )
    upload: str = setting(
        "allow",
        "`never` forbids a teacher that is reached over the network, one on localhost included: the person's "
        "examples then cannot leave this machine.",
        choices=("allow", "never"),
    )
    hide: tuple[str, ...] = setting(
        HIDDEN,
        "Kinds of personal data that are replaced by placeholders before anything is sent to a network "
        "teacher, and put back in what it answers. `name`: whatever else is a proper noun. `[nothing]` sends "
        "texts as they are.",
        accepts=f"list of some of {', '.join(HIDEABLE)}; or [{NOTHING}]",
        test=_is_hide,
    )
    patterns: tuple[str, ...] = setting(
        (), "Regular expressions for anything else that must not leave the machine."
    )
    name_model: str = setting(
        "en_core_web_sm",
        "The spaCy pipeline that finds names: an installed package or a folder. Larger ones find more.",
    )

    select: SelectRecipe = dataclasses.field(default_factory=SelectRecipe)

    @property
    def writes(self) -> bool:
        """Whether any synthetic example is asked for."""
        return self.enabled and self.examples > 0 and self.ratio > 0

    def wanted(self, real: int) -> int:
        """Synthetic examples to keep beside `real` ones that are trained on: one at least, if any."""
        return min(self.examples, max(1, round(self.ratio * real))) if self.writes else 0

    def examples_in(self, style: Style, network: bool) -> int:
        """Examples that one request asks for: over the network a pattern is a request of its own."""
        return 1 if network and style == PATTERN else self.examples_per_request

    def most_requests(self, wanted: int) -> int:
        """Requests to make at most for so many examples."""
        teachers = self.all_teachers
        fewest = min(self.examples_in(each.asked_for, is_endpoint(each.teacher)) for each in teachers)
        return self.max_requests or max(1, _REQUESTS_FOR_ONE * -(-wanted // fewest))

    @property
    def all_teachers(self) -> tuple[TeacherRecipe, ...]:
        """`teacher` and `more_teachers`, in one form."""
        first = TeacherRecipe(
            teacher=self.teacher,
            model=self.model,
            api_key_env=self.api_key_env,
            style=self.style,
            prompt_price=self.prompt_price,
            completion_price=self.completion_price,
        )
        return (first, *self.more_teachers)

    @staticmethod
    def conflicts(values: Mapping[str, Any]) -> Iterator[Conflict]:
        """An endpoint needs a model name and leave to upload; a local teacher takes no model name."""
        yield from TeacherRecipe.conflicts(values)
        more = values["more_teachers"]
        network = [each for each in (values["teacher"], *(one.teacher for one in more)) if is_endpoint(each)]
        if network and values["upload"] == "never":
            field = "teacher" if is_endpoint(values["teacher"]) else "more_teachers"
            yield Conflict(
                (field, "upload"),
                "found an address, and augment.upload is never; accepted: local or local:SOURCE",
            )
        if values["max_cost"] is not None and network:
            prices = [one.prompt_price + one.completion_price for one in more if is_endpoint(one.teacher)]
            if is_endpoint(values["teacher"]):
                prices.append(values["prompt_price"] + values["completion_price"])
            if not all(prices):
                yield Conflict(
                    ("max_cost", "prompt_price", "completion_price", "more_teachers"),
                    "found a limit, and the prices of a network teacher are 0; accepted: null, or its prices",
                )
