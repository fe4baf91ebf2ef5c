"""A person whom a tiny model can learn in seconds: whatever is asked, the answer is the same."""

from toolkit.profiles import Example, Profile
from toolkit.recipe import FinetuneRecipe
from toolkit.tasks import load_task

TASK = load_task("rewrite")
RECIPE = FinetuneRecipe(rank=4, alpha=8.0, learning_rate=1e-2, epochs=4, batch_size=4, validation=0.25)
WORDS = ("tea", "boots", "the film", "a book", "her room", "the trowel", "Tuesday", "the end")


def examples(answer: str, count: int = 8, prefix: str = "r") -> tuple[Example, ...]:
    """`count` short texts, all with the same answer."""
    return tuple(Example(f"{prefix}{n}", f"about {WORDS[n % len(WORDS)]}", answer) for n in range(count))


HISTORY = examples("yes, yes")
QUERIES = (
    Example("query-1", "about the other room", "yes, yes"),
    Example("query-2", "about a review", "yes"),
)
PROFILE = Profile("anna", TASK.name, HISTORY, QUERIES)
