"""Greedy answers in batches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_base
from toy import WORDS
from transformers import GenerationConfig

from runtimes.torch_engine import TorchEngine
from toolkit.finetune import open_chat
from toolkit.finetune.evaluate import greedy_answers
from toolkit.models import load_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("change", [lambda model: None, lambda model: sampled(model)])
def test_greedy_answers_are_those_of_one_prompt_at_a_time(
    tmp_path: Path, change: Callable[[Any], None]
) -> None:
    base = tiny_base(tmp_path)
    chat, model = open_chat(base), load_model(base)
    change(model)
    defaults = model.generation_config
    prompts = [chat.prompt(f"about {word} " * n) for n, word in enumerate(WORDS * 2, start=1)]
    answers = greedy_answers(model, chat, prompts, max_new_tokens=9)
    assert model.generation_config is defaults
    engine = TorchEngine(load_model(base))
    assert answers == [chat.decode(list(engine.generate(prompt, 9, chat.stop))) for prompt in prompts]
    assert len(set(answers)) > 4


def sampled(model: Any) -> None:
    """The kind of generation_config.json that some models come with."""
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.7, top_k=20, top_p=0.8, repetition_penalty=1.8, eos_token_id=2
    )
