"""One training in a process of its own, as `python -m benchmarks.studies.training_child`: ours, or the usual.

Both take the same examples in the same batches, the same optimiser and the same learning rates, so that they
end at the same loss; seconds are then seconds to that loss.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.studies.child import Request, serve
from benchmarks.studies.people import Person, read_people
from runtimes.sensors import memory
from toolkit.errors import ProfileError
from toolkit.finetune.encode import EncodedExample
from toolkit.models import BaseModel
from toolkit.recipe import FinetuneRecipe

OURS, USUAL = "edgeplm", "trainer"
_IGNORED = -100  # a label without loss


def batches(
    examples: Sequence[EncodedExample], recipe: FinetuneRecipe, seed: int
) -> Iterator[list[EncodedExample]]:
    """The batches of `toolkit.finetune.train`, in its order."""
    shuffler = random.Random(seed)  # noqa: S311 - order of examples, nothing secret
    order = list(examples)
    for _ in range(recipe.epochs):
        shuffler.shuffle(order)
        for start in range(0, len(order), recipe.batch_size):
            yield order[start : start + recipe.batch_size]


def operations(side: str, model: Any, examples: Sequence[EncodedExample], recipe: FinetuneRecipe) -> float:
    """Multiplications of a forward pass by the frozen weights, over the whole training; backward as many.

    Attention and adapters are left out. What two sides' numbers say of their times is the limit for matrix
    products of the same speed.
    """
    from toolkit.finetune.packing import linear_weights
    from toolkit.finetune.tree import packs, tree_of

    layers, head = linear_weights(model), model.get_output_embeddings().weight.numel()
    total = 0.0
    for batch in batches(examples, recipe, seed=0):
        if side == USUAL:
            total += len(batch) * max(map(len, batch)) * (layers + head)
            continue
        for part in packs(batch, recipe.tokens_per_pass):
            tree = tree_of(part)
            total += len(tree.ids) * layers + len(set(tree.rows)) * head
    return total


def train_ours(peft_model: Any, examples: Sequence[EncodedExample], recipe: FinetuneRecipe) -> None:
    """As `edgeplm finetune` does."""
    from toolkit.finetune.train import train

    train(peft_model, examples, recipe, seed=0)


def train_usual(peft_model: Any, examples: Sequence[EncodedExample], recipe: FinetuneRecipe) -> None:
    """transformers' Trainer on PEFT's model: padded batches, labels, logits at every position."""
    import tempfile

    import torch
    from torch.utils.data import DataLoader
    from transformers import Trainer, TrainingArguments

    from toolkit.finetune.learner import learning_rate_factor

    planned = list(batches(examples, recipe, seed=0))
    optimizer = torch.optim.AdamW(
        [p for p in peft_model.parameters() if p.requires_grad],
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
    )
    factor = learning_rate_factor(recipe, len(planned))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    class SameBatches(Trainer):
        """The Trainer with the batches that the other side takes."""

        def get_train_dataloader(self) -> Any:
            return DataLoader(planned, batch_size=None, collate_fn=_padded)  # type: ignore[arg-type]

    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            max_steps=len(planned),
            max_grad_norm=recipe.max_grad_norm,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        SameBatches(
            model=peft_model, args=settings, train_dataset=planned, optimizers=(optimizer, schedule)
        ).train()


def _padded(batch: Sequence[EncodedExample]) -> dict[str, Any]:
    import torch

    longest = max(map(len, batch))
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, _IGNORED)
    for row, example in enumerate(batch):
        length = len(example)
        ids[row, :length] = torch.tensor([*example.prompt, *example.answer])
        mask[row, :length] = 1
        labels[row, len(example.prompt) : length] = torch.tensor(example.answer)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


_SIDES: dict[str, Callable[[Any, Sequence[EncodedExample], FinetuneRecipe], None]] = {
    OURS: train_ours,
    USUAL: train_usual,
}


def _work(request: Request) -> dict[str, Any]:
    """Seconds and peak bytes of the training; then losses and the answers to the held-out queries."""
    from toolkit.finetune import open_chat
    from toolkit.finetune.encode import encode_history
    from toolkit.finetune.evaluate import greedy_answers
    from toolkit.finetune.scoring import mean_loss
    from toolkit.finetune.train import attach_adapter
    from toolkit.models import load_model
    from toolkit.quality import answer_limit, query_prompts

    base = BaseModel(**request["base"] | {"folder": Path(request["base"]["folder"])})
    recipe = FinetuneRecipe.from_dict(request["recipe"], "request")
    person = _person(request)
    task, profile, chat = person.task, person.profile, open_chat(base)
    history = profile.history[-request["examples"] :]
    examples = encode_history(history, task, chat, max_length=recipe.max_length).examples
    model = load_model(base)
    before = memory()["peak_rss"]
    multiplications = operations(request["side"], model, examples, recipe)
    peft_model = attach_adapter(model, recipe, seed=0)
    started, processor = time.perf_counter(), time.process_time()
    _SIDES[request["side"]](peft_model, examples, recipe)
    wall, cpu = time.perf_counter() - started, time.process_time() - processor
    peak = memory()["peak_rss"]
    core = peft_model.eval().base_model.model
    queries = [query for query in profile.queries if query.output][: request["queries"]]
    asked = encode_history(queries, task, chat, max_length=recipe.max_length).examples
    answers = greedy_answers(
        core,
        chat,
        query_prompts(task, chat, queries, recipe.max_length),
        max_new_tokens=answer_limit(task, chat, profile),
    )
    golds = [query.output for query in queries]
    return {
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "peak_bytes": peak,
        "loaded_bytes": before,
        "operations": multiplications,
        "tokens": recipe.epochs * sum(map(len, examples)),
        "training_loss": mean_loss(core, examples, packed=False),
        "query_loss": mean_loss(core, asked, packed=False),
        "metrics": task.score(answers, golds),
        "answers": answers,
    }


def _person(request: Request) -> Person:
    path = Path(request["people"]) if request["people"] else None
    for person in read_people(path, request["task"], request["users"], request["least"]):
        if person.profile.user_id == request["user"]:
            return person
    raise ProfileError("is not among the people", where=request["user"])


if __name__ == "__main__":
    raise SystemExit(serve(_work))
