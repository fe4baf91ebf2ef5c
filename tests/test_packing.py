"""Shared-prefix packing computes what the padded batch computes: the loss and every gradient."""

import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from tiny import ARCHITECTURES, VOCAB_SIZE, tiny_adapter, tiny_base

from toolkit.finetune.attention import layout_of
from toolkit.finetune.encode import EncodedExample
from toolkit.finetune.packing import packed_loss, packing_cost, packing_is_exact, padded_loss, passes
from toolkit.finetune.scoring import mean_loss
from toolkit.finetune.tree import Cost, Tree, packed_length, packs, tree_of
from toolkit.models import load_model

SHAPE = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
TOLERANCE = 1e-6
pytestmark = pytest.mark.usefixtures("one_thread")
Loss = Callable[[Any, Sequence[EncodedExample]], torch.Tensor]


def example(name: str, shared: int, own: int, answer: int, weight: float = 1.0) -> EncodedExample:
    """Random ids; the first `shared` are the same in every example."""
    same, other = random.Random(0), random.Random(name)
    prompt = [same.randrange(3, VOCAB_SIZE) for _ in range(shared)]
    prompt += [other.randrange(3, VOCAB_SIZE) for _ in range(own)]
    return EncodedExample(
        name, tuple(prompt), tuple(other.randrange(3, VOCAB_SIZE) for _ in range(answer)), weight
    )


def branch(name: str, path: tuple[int, ...], own: int) -> EncodedExample:
    """A prompt of runs of random ids, one a number in `path` and as long as it, then `own` ids and 3 more.

    The same numbers at the beginning of two paths are the same ids.
    """
    prompt: list[int] = []
    for depth, length in enumerate(path):
        same = random.Random(str(path[: depth + 1]))
        prompt += [same.randrange(3, VOCAB_SIZE) for _ in range(length)]
    return EncodedExample(
        name, (*prompt, *example(name, 0, own, 1).prompt), example(name + "answer", 0, 1, 3).answer
    )


# Longer than the tiny Gemma's window of 64, in the prefix, across its end and in an example alone.
MIXED = [
    example("a", 70, 50, 3),
    example("b", 70, 1, 9, weight=0.5),
    example("c", 70, 90, 1, weight=2.0),
    example("d", 70, 20, 12),
]
CASES = {
    "mixed lengths and weights": MIXED,
    "one alone": MIXED[:1],
    "identical prompts": [
        EncodedExample(name, MIXED[0].prompt, example(name, 0, 0, 4).answer) for name in ("e", "f", "g")
    ],
    "identical examples": [MIXED[3], MIXED[3]],
    "no common prefix": [example(name, 0, 20, 4) for name in ("h", "i", "j")],
    "one prompt begins another": [
        EncodedExample("k", MIXED[0].prompt[:30], (5, 6)),
        EncodedExample("l", MIXED[0].prompt[:40], (7,)),
    ],
    "groups and groups of groups": [
        branch(name, path, own)
        for name, path, own in (
            ("o", (40, 30, 6), 9),
            ("p", (40, 30, 6), 1),
            ("q", (40, 31), 20),
            ("r", (40, 30), 4),
            ("s", (8,), 70),
            ("t", (8,), 3),
            ("u", (), 12),
        )
    ],
    "one example begins another, its answer included": [
        EncodedExample("v", MIXED[0].prompt, (5, 6, 7), weight=0.5),
        EncodedExample("w", (*MIXED[0].prompt, 5, 6), (7, 8)),
        EncodedExample("x", (*MIXED[0].prompt, 5), (9, 8)),
    ],
    "a prompt of one token": [EncodedExample("m", (9,), (5, 6)), EncodedExample("n", (9, 8), (7,))],
}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny model with a random adapter whose weights take gradients."""
    from peft import PeftModel

    folder = tmp_path_factory.mktemp("base")
    base = tiny_base(folder, request.param)
    adapter = tiny_adapter(base, folder / "adapter")
    peft_model = PeftModel.from_pretrained(load_model(base), str(adapter), is_trainable=True)
    return peft_model.double().train()


def loss_and_gradients(model: Any, loss_of: Loss, examples: Sequence[EncodedExample]) -> tuple[float, Any]:
    model.zero_grad(set_to_none=True)
    loss = loss_of(model.base_model.model, examples)
    loss.backward()
    return loss.item(), {
        name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad and p.grad is not None
    }


def assert_same_gradients(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert len(found) >= 28  # A and B of seven linear layers in two blocks
    for name, gradient in wanted.items():
        assert gradient.norm() > 0, name
        assert (found[name] - gradient).norm() <= TOLERANCE * gradient.norm(), name


@pytest.mark.parametrize("by_runs", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_packed_equals_padded(model: Any, case: str, by_runs: bool) -> None:
    examples = CASES[case]
    packed, gradients = loss_and_gradients(model, partial(packed_loss, by_runs=by_runs), examples)
    padded, wanted = loss_and_gradients(model, padded_loss, examples)
    assert packed == pytest.approx(padded, rel=TOLERANCE)
    assert_same_gradients(gradients, wanted)


def test_both_are_the_models_own_loss(model: Any) -> None:
    core = model.base_model.model
    with torch.no_grad():
        wanted = sum(own_loss(core, each) for each in MIXED)
        assert packed_loss(core, MIXED).item() == pytest.approx(wanted, rel=TOLERANCE)
        assert mean_loss(core, MIXED) == pytest.approx(
            wanted / sum(len(each.answer) * each.weight for each in MIXED), rel=TOLERANCE
        )


def own_loss(model: Any, one: EncodedExample) -> float:
    """What transformers computes from labels, times weight and tokens."""
    ids, labels = [*one.prompt, *one.answer], [*[-100] * len(one.prompt), *one.answer]
    loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
    return float(loss) * len(one.answer) * one.weight


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("budget", [1, 200, 300])
def test_the_gradients_of_several_passes_add_up(model: Any, packed: bool, budget: int) -> None:
    core = model.base_model.model
    everything = [*MIXED, *CASES["groups and groups of groups"]]
    split = list(passes(core, everything, budget, packed=packed))
    assert 1 < len(split) <= len(everything)
    model.zero_grad(set_to_none=True)
    total = 0.0
    for part in split:
        tokens = packed_length(part) if packed else len(part) * max(map(len, part))
        assert tokens <= budget or len(part) == 1
        loss = (packed_loss if packed else padded_loss)(core, part)
        loss.backward()
        total += loss.item()
    summed = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    whole, wanted = loss_and_gradients(model, padded_loss, everything)
    assert total == pytest.approx(whole, rel=TOLERANCE)
    assert_same_gradients(summed, wanted)


def test_a_weight_scales_the_loss(model: Any) -> None:
    core = model.base_model.model
    with torch.no_grad():
        light = EncodedExample("x", MIXED[0].prompt, MIXED[0].answer, 0.25)
        assert packed_loss(core, [light]).item() == pytest.approx(
            packed_loss(core, MIXED[:1]).item() / 4, rel=TOLERANCE
        )


def test_packing_is_exact_for_attention_and_leaves_the_model_as_it_was(model: Any) -> None:
    core = model.base_model.model
    assert packing_is_exact(core, MIXED)
    assert packing_is_exact(core, MIXED[:1])
    assert packing_is_exact(core, MIXED, by_runs=True)
    assert core.config._attn_implementation == "sdpa"
    assert core.training
    core.eval()
    assert packing_is_exact(core, MIXED)
    assert not core.training
    core.train()


def test_the_budget_counts_packed_tokens_and_sharing_is_kept() -> None:
    groups = [branch(f"{way}{n}", (50, way), 4) for n in range(6) for way in (10, 11)]
    split = list(packs(groups, 50 + 11 + 6 * 6))  # one group's shared tokens and each one's 6 own
    assert [{each.id[:2] for each in pack} for pack in split] in ([{"10"}, {"11"}], [{"11"}, {"10"}])
    assert sorted(each.id for pack in split for each in pack) == sorted(each.id for each in groups)
    assert sum(map(packed_length, split)) == 2 * 50 + 10 + 11 + 12 * 6
    assert sum(map(len, groups)) > 4 * sum(map(packed_length, split))
    assert [len(pack) for pack in packs(groups, 1)] == [1] * 12  # never none, however small the budget
    assert list(packs([], 25)) == []


def test_an_example_joins_a_pack_only_where_that_is_cheaper() -> None:
    alike, unlike = (
        [branch(f"{own}{n}", (shared,), own) for n in range(3)] for shared, own in ((200, 9), (9, 200))
    )
    attention = Cost(pair=1e-3)
    assert [len(pack) for pack in packs(alike, 9999, attention)] == [3]
    assert [len(pack) for pack in packs(unlike, 9999, attention)] == [1, 1, 1]
    assert [len(pack) for pack in packs(unlike, 9999, Cost(pair=1e-3, fixed=500))] == [3]


def test_a_models_cost_of_attention_is_taken_from_its_shape(model: Any) -> None:
    # 4 heads of 16 against 64 x (64 + 32 + 32 + 64) + 3 x 64 x 128 weights, in each of 2 layers
    assert 1.5 * 2 * 64 / 36_864 * 0.9 < packing_cost(model.base_model.model).pair < 1.5 * 2 * 64 / 36_864


def by_runs_seen(tree: Tree, row: int) -> list[int]:
    """The places that attention by runs lets `row` see."""
    layout = layout_of(tree, torch.device("cpu"))
    stops = [*tree.starts[1:], len(tree.ids)]
    own = next(run for run, stop in enumerate(stops) if row < stop)
    assert layout.seen[own][-1] == own
    return [place for run in layout.seen[own] for place in range(tree.starts[run], min(stops[run], row + 1))]


@pytest.mark.parametrize("case", CASES)
def test_every_token_of_the_tree_sees_its_own_example_and_no_more(case: str) -> None:
    tree = tree_of(CASES[case])
    rows = iter(tree.rows)
    for each in CASES[case]:
        for step in range(len(each.answer)):
            row = next(rows)
            seen = [place for place in range(row + 1) if row < tree.ends[place]]
            assert [tree.ids[place] for place in seen] == [*each.prompt, *each.answer[:step]]
            assert [tree.positions[place] for place in seen] == list(range(len(seen)))
            assert seen == by_runs_seen(tree, row)
    assert len(tree.ids) == packed_length(CASES[case])


def mamba() -> Any:
    return transformers.MambaForCausalLM(
        transformers.MambaConfig(
            vocab_size=VOCAB_SIZE, hidden_size=32, num_hidden_layers=2, state_size=4, initializer_range=0.2
        )
    )


def lfm2() -> Any:
    config = transformers.Lfm2Config(
        **SHAPE, layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False
    )
    return transformers.Lfm2ForCausalLM(config)


@pytest.mark.parametrize("build", [mamba, lfm2])
def test_packing_is_refused_for_models_with_state_and_the_padded_batch_is_right(
    build: Callable[[], Any],
) -> None:
    torch.manual_seed(0)
    model = build().eval()
    assert not packing_is_exact(model, MIXED)
    assert not packing_is_exact(model, MIXED[:1])
    assert not packing_is_exact(model, MIXED, by_runs=True)
    with torch.no_grad():
        assert padded_loss(model, MIXED).item() == pytest.approx(
            sum(own_loss(model, each) for each in MIXED), rel=TOLERANCE
        )


def granite() -> Any:
    config = transformers.GraniteConfig(**SHAPE, logits_scaling=8.0, embedding_multiplier=4.0)
    return transformers.GraniteForCausalLM(config)


def mistral() -> Any:
    return transformers.MistralForCausalLM(transformers.MistralConfig(**SHAPE, sliding_window=16))


def gemma2() -> Any:
    config = transformers.Gemma2Config(
        **SHAPE, head_dim=16, query_pre_attn_scalar=16, sliding_window=16, final_logit_softcapping=5.0
    )
    return transformers.Gemma2ForCausalLM(config)


def gpt2_with_dropout() -> Any:
    config = transformers.GPT2Config(
        vocab_size=VOCAB_SIZE, n_embd=32, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2, resid_pdrop=0.3
    )
    return transformers.GPT2LMHeadModel(config)


@pytest.mark.parametrize("build", [granite, mistral, gemma2, gpt2_with_dropout])
def test_scaled_logits_windows_and_dropout_are_no_obstacle(build: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    model = build().train()
    assert packing_is_exact(model, MIXED)
    by_runs = packing_is_exact(model, MIXED, by_runs=True)
    assert by_runs == (build is not gemma2)  # whose scores are capped, so that its attention is its own
    model.eval()
    with torch.no_grad():
        wanted = sum(own_loss(model, each) for each in MIXED)
        assert packed_loss(model, MIXED).item() == pytest.approx(wanted, rel=TOLERANCE)
        if by_runs:
            runs = packed_loss(model, MIXED, by_runs=True).item()
            assert runs == pytest.approx(wanted, rel=TOLERANCE)
        assert padded_loss(model, MIXED).item() == pytest.approx(wanted, rel=TOLERANCE)


def test_a_model_that_packs_wrongly_is_found_out(tmp_path: Path) -> None:
    model = load_model(tiny_base(tmp_path))

    class Forgetful(torch.nn.Module):
        """Ignores the mask that it is given, as a model of another kind might."""

        def __init__(self) -> None:
            super().__init__()
            self.inner, self.config = model, model.config
            self.device, self.dtype = model.device, model.dtype

        def forward(self, attention_mask: torch.Tensor, **rest: Any) -> Any:
            return self.inner(**rest)

    assert not packing_is_exact(Forgetful(), MIXED)


def test_dropout_of_the_adapter_does_not_hide_exactness(tmp_path: Path) -> None:
    config = LoraConfig(r=4, lora_dropout=0.5, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(load_model(tiny_base(tmp_path)), config).train()
    assert packing_is_exact(model.base_model.model, MIXED)
