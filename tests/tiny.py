"""Tiny random-weight models on disk: a real architecture, a real tokenizer, a few hundred kilobytes.

`tiny_model_folder(tmp_path)` writes what a model hub would serve, so that code under test reads it the way it
reads a real model. The weights are wide enough for the answers to depend on the prompt, and the norm weights
are not the identity, so that an exporter which drops or shifts a norm is caught.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

VOCAB_SIZE = 384
CONTEXT_LENGTH = 512
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
ARCHITECTURES = ("llama", "qwen3", "gemma3")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_LINES = [
    "system\nuser\nassistant\n",
    "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, or 5.",
    "Generate a title for the following abstract of a paper.",
    "Rewrite the following message the way I would write it, without any explanation before or after it.",
    "The trowel has a wooden handle and a steel end. I have moved forty wallflowers with it.",
    "Please tell them that the meeting has moved to Tuesday at half past two in the other room.",
    "A short and honest review of the book, the film, the tea and the boots that she wore there.",
]


def tiny_tokenizer() -> Any:
    """A byte-level BPE tokenizer of 384 tokens with ChatML turns; any text survives the round trip."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(_LINES, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token=TURN_START,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_model_folder(tmp_path: Path, arch: str = "llama", *, seed: int = 0) -> Path:
    """Save a random model of `arch` ("llama", "qwen3" or "gemma3") with its tokenizer; return the folder.

    2 layers, hidden 64, 4 heads of 16 over 2 key-value heads, tied embeddings, float32, 512 positions.
    """
    import torch
    from transformers import GenerationConfig

    if arch not in ARCHITECTURES:
        raise ValueError(f"no tiny model of {arch!r}: choose from {', '.join(ARCHITECTURES)}")
    tokenizer = tiny_tokenizer()
    end, pad, start = (
        tokenizer.convert_tokens_to_ids(token) for token in (TURN_END, END_OF_TEXT, TURN_START)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, old_style = _random_model(arch, eos_token_id=end, pad_token_id=pad, bos_token_id=start)
        _spread_norms(model)
    model.generation_config = GenerationConfig(
        eos_token_id=end, pad_token_id=pad, bos_token_id=start, do_sample=False
    )
    folder = tmp_path / f"tiny-{arch}"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # Readers older than transformers 5 look for rope_theta at the top level and silently take a default.
    config_file = folder / "config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config_file.write_text(json.dumps(config | old_style, indent=2) + "\n", encoding="utf-8")
    return folder


def tiny_base(tmp_path: Path, arch: str = "llama", *, seed: int = 0) -> Any:
    """A tiny model as `resolve_model` gives it."""
    from toolkit.models import resolve_model

    return resolve_model(str(tiny_model_folder(tmp_path, arch, seed=seed)))


def tiny_adapter(
    base: Any, folder: Path, *, targets: str | list[str] = "all-linear", size: float = 0.05
) -> Path:
    """A LoRA adapter of rank 4 for `base` with random weights in both matrices, as PEFT saves it."""
    import torch
    from peft import LoraConfig, get_peft_model

    from toolkit.models import load_model

    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM")
    config.base_model_name_or_path = base.source
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        model = get_peft_model(load_model(base), config)
        for name, weight in model.named_parameters():
            if "lora_B" in name or "lora_embedding" in name:
                weight.normal_(std=size)
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


@dataclass(frozen=True)
class Personal:
    """A tiny base with a random adapter, and the float model that both make together."""

    base: Any
    adapter: Path
    chat: Any
    model: Any

    def job(self, **changes: Any) -> Any:
        """An export of it in float32 with a context of 160 tokens."""
        from exporters.export import ExportJob
        from exporters.merge import read_adapter

        job = ExportJob(
            self.base,
            "anna",
            160,
            precision="fp32",
            adapter=read_adapter(self.adapter),
            task={"name": "rewrite"},
        )
        return replace(job, **changes)


def tiny_personal(folder: Path, arch: str = "llama") -> Personal:
    """A tiny base of `arch` with a random adapter, in `folder`."""
    from exporters.merge import merge_adapter
    from toolkit.finetune import open_chat
    from toolkit.models import load_model

    base = tiny_base(folder, arch)
    adapter = tiny_adapter(base, folder / "adapter")
    return Personal(base, adapter, open_chat(base), merge_adapter(load_model(base), adapter))


def _random_model(arch: str, **token_ids: int) -> tuple[Any, dict[str, Any]]:
    """A model and the keys of its configuration that older readers expect at the top level."""
    import transformers

    shape = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": CONTEXT_LENGTH,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,
        "dtype": "float32",
        **token_ids,
    }
    theta = 50_000.0  # not a default of any reader, so that one which ignores it is caught
    plain = {"rope_type": "default", "rope_theta": theta}
    if arch == "llama":
        config = transformers.LlamaConfig(**shape, rope_parameters=plain)
        return transformers.LlamaForCausalLM(config), {"rope_theta": theta}
    if arch == "qwen3":
        config = transformers.Qwen3Config(**shape, rope_parameters=plain)
        return transformers.Qwen3ForCausalLM(config), {"rope_theta": theta}
    local_theta = 5_000.0
    config = transformers.Gemma3TextConfig(
        **shape,
        query_pre_attn_scalar=16,
        sliding_window=64,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": local_theta},
            "full_attention": plain,
        },
    )
    older = {"rope_theta": theta, "rope_local_base_freq": local_theta, "sliding_window_pattern": 2}
    return transformers.Gemma3ForCausalLM(config), older


def _spread_norms(model: Any) -> None:
    """Move every norm weight off its initial value; lift those that follow a block (Gemma scales by 1 + w).

    Without the lift Gemma's scaled, tied embeddings outweigh its blocks and the model repeats its last token.
    """
    import torch

    gemma = model.config.model_type == "gemma3_text"
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                continue
            weight.add_(torch.randn_like(weight) * 0.1)
            if gemma and ("post_attention" in name or "post_feedforward" in name):
                weight.add_(3.0)
