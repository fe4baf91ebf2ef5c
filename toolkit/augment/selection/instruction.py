"""Instruction-following difficulty: whether the question helps to the answer at all.

IFD (Li et al., 2024, From Quantity to Quality, arXiv 2308.12032): the loss of the answer after its prompt,
divided by the loss of the answer alone. At 1 and above the two do not belong together.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from toolkit.augment.selection.outcome import Judgement
from toolkit.progress import SILENT, Progress

if TYPE_CHECKING:
    from toolkit.chat import ChatFormat
    from toolkit.profiles import Example
    from toolkit.tasks import Task

_MOST_OF_OWN = 0.2  # of the person's own examples refused, above which the figure says nothing about them


def following_difficulty(
    model: Any,
    chat: "ChatFormat",
    task: "Task",
    examples: "Sequence[Example]",
    *,
    max_length: int,
    progress: Progress = SILENT,
) -> dict[str, float]:
    """id -> IFD under `model`, as it is before any training.

    "Alone" is the answer in the chat's own frame around an empty message. An example whose answer leaves no
    room for a prompt has none.
    """
    from dataclasses import replace

    from toolkit.finetune.encode import encode_history
    from toolkit.finetune.scoring import example_losses

    asked = encode_history(examples, task, chat, max_length=max_length).examples
    empty = tuple(chat.prompt(""))
    alone = [replace(each, prompt=empty) for each in asked]
    losses = example_losses(model, [*asked, *alone], progress=progress, label="Asking and not asking")
    given, free = losses[: len(asked)], losses[len(asked) :]
    return {
        each.id: with_prompt / max(without, 1e-6)
        for each, with_prompt, without in zip(asked, given, free, strict=True)
    }


def does_not_follow(
    ids: Sequence[str], found: dict[str, float], own: Sequence[float], limit: float
) -> Judgement:
    """Refuse an IFD of `limit` and more, unless a good part of the person's own examples had to go too."""
    if own and (share := sum(value >= limit for value in own) / len(own)) > _MOST_OF_OWN:
        return Judgement.idle(
            f"{share:.0%} of the history's own examples are at {limit:g} or above: the figure says nothing "
            "about this person"
        )
    worst = sorted(
        (-found[name], place) for place, name in enumerate(ids) if name in found and found[name] >= limit
    )
    refused = {
        place: f"the prompt does not help to the answer: IFD {-value:.2f}, and below {limit:g} is wanted"
        for value, place in worst
    }
    return Judgement(refused, f"IFD of {limit:g} or above")
