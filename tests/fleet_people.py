"""Synthetic people for fleets, and the recipe that trains them on a tiny model."""

import json
from pathlib import Path

from tiny import tiny_model_folder

WORDS = ("tea", "boots", "the film", "a book", "her room", "the trowel", "Tuesday", "the end")


def write_people(path: Path, count: int, *, bad: tuple[int, ...] = (), first: int = 0) -> Path:
    """`count` people with 4 to 8 messages, who always answer yes or always no; the `bad` left one out."""
    lines = []
    for user in range(first, first + count):
        for index in range(4 + user % 5):
            answer = "" if user in bad and index == 1 else ("yes" if user % 2 else "no")
            row = {"user_id": f"user {user}", "split": "history", "id": f"{user}-{index}"}
            lines.append(json.dumps(row | {"input": f"about {WORDS[index % 8]}", "output": answer}) + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines))
    return path


def write_recipe(folder: Path, **finetune: object) -> Path:
    """A recipe beside a tiny model."""
    tiny_model_folder(folder)
    settings = {"rank": 4, "epochs": 1, "validation": 0.25, "choose": "real", **finetune}
    path = folder / "recipe.yaml"
    recipe = {"task": "rewrite", "profile": "people.jsonl", "model": "./tiny-llama", "finetune": settings}
    path.write_text(json.dumps(recipe))  # JSON is YAML
    return path
