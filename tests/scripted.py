"""A teacher that follows a script, and two small people for it to imitate."""

import json

from toolkit.augment.budget import Price
from toolkit.augment.teachers import Completion, RequestFailedError
from toolkit.errors import TeacherError
from toolkit.profiles import Example, Profile
from toolkit.recipe import AugmentRecipe
from toolkit.recipe_select import SelectRecipe

SUBJECTS = ["kettle", "trowel", "novel", "radio serial", "teapot", "raincoat", "lantern", "seed catalogue"]


def rater(per_label=(3, 0, 0, 2, 5)):
    """A LaMP-3 profile with so many reviews of each score, and two held-out ones."""
    labels = [str(score) for score, number in enumerate(per_label, 1) for _ in range(number)]
    history = tuple(
        Example(
            f"h{number}", f"The {SUBJECTS[number % 8]} number {number} arrived and I have kept it.", label
        )
        for number, label in enumerate(labels)
    )
    queries = (
        Example("q1", "A brass barometer that only ever says change, and is right.", "3"),
        Example("q2", "Slippers with a tartan lining, warm as a small dog.", "4"),
    )
    return Profile("maud", "lamp-3", history, queries)


def writer():
    """A rewrite profile: a neutral message and the same in the person's own manner."""
    history = tuple(
        Example(
            f"h{number}",
            f"Please bring the {subject} on day {number}.",
            f"oi / {subject} / day {number} / ta",
        )
        for number, subject in enumerate(SUBJECTS)
    )
    return Profile(
        "bo", "rewrite", history, (Example("q1", "Please return the ladder to my shed.", "SECRET GOLD"),)
    )


def recipe(**changes):
    """A recipe for tests: few examples, and nothing but copies refused unless asked for."""
    defaults = {
        "examples": 4,
        "examples_per_request": 2,
        "shots": 3,
        "max_requests": 6,
        "select": SelectRecipe(enabled=False),
        "ratio": 100,  # "examples" says how many
        "near_duplicate": 0.95,
    }
    return AugmentRecipe(**(defaults | changes))


def json_lines(*examples):
    """What a capable teacher answers: one object a line, from (input, output) pairs."""
    return "\n".join(json.dumps({"input": text, "output": output}) for text, output in examples)


class ScriptedTeacher:
    """Answers by calling `script(messages, number of the request)`; remembers all it was asked.

    A script may return an exception to raise in the place of an answer.
    """

    price = Price()

    def __init__(self, script, style="instruction", name="scripted", network=False):
        self.network = network
        self.script = script
        self.style = style
        self.name = name
        self.asked = []

    def complete(self, messages, *, seed, schema=None):
        self.asked.append((list(messages), seed))
        answer = self.script(messages, len(self.asked))
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Completion) else Completion(answer, 10, 5)

    def complete_many(self, conversations, seeds, schema=None):
        for index, (messages, seed) in enumerate(zip(conversations, seeds, strict=True)):
            try:
                yield index, self.complete(messages, seed=seed)
            except RequestFailedError as error:
                yield index, error

    def everything(self):
        """All text that reached the teacher."""
        return "\n".join(message["content"] for messages, _ in self.asked for message in messages)


def failure():
    return TeacherError("cannot be reached", where="scripted", mend="Try again later")
