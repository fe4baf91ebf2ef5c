"""ExecuTorch programs: the rebuilt decoder, its weights, both ways of lowering, and the stock runner."""

import json
import subprocess
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import ARCHITECTURES, tiny_base

from exporters.executorch import PROGRAM, build_executorch, supported_architectures, templates
from exporters.executorch.decoder import Decoder
from exporters.executorch.linear import FloatLinear, IntegerEmbedding, IntegerLinear, TanhGELU
from exporters.executorch.lowering import register_operators, write_program
from exporters.executorch.pte_file import share_equal_bytes
from exporters.quantise.grid import ONNX_INT4, XNNPACK_INT4, XNNPACK_INT8, Grid, QuantisedWeight
from exporters.quantise.solve import quantise
from toolkit.errors import ModelError
from toolkit.models import load_model
from toolkit.progress import SILENT

pytestmark = pytest.mark.usefixtures("one_thread")
CONTEXT = 160


def rounded(model: Any, grid: Grid = XNNPACK_INT4) -> dict[str, QuantisedWeight]:
    """Every linear layer of `model` on `grid` and its head in int8, by plain rounding."""
    linears = {name: each for name, each in model.named_modules() if isinstance(each, torch.nn.Linear)}
    return {
        name: quantise(each.weight.detach(), XNNPACK_INT8 if name == "lm_head" else grid)
        for name, each in linears.items()
    }


def random_tokens(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, 384, (1, count), generator=generator)


def answers(run: Any, tokens: torch.Tensor, prompt: int) -> torch.Tensor:
    """Logits of the positions from `prompt` - 1 on: a prompt in one call, then token by token."""
    rows = [run(tokens[:, :prompt], torch.tensor([0]))[0]]
    rows += [run(tokens[:, i : i + 1], torch.tensor([i]))[0] for i in range(prompt, tokens.shape[1])]
    return torch.stack(rows)


def logits(model: Any, tokens: torch.Tensor, prompt: int) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=tokens).logits[0, prompt - 1 :]


def load(path: Path) -> Any:
    """The program's forward as a function of tensors."""
    from executorch.runtime import Runtime

    register_operators()
    program = Runtime.get().load_program(path)
    method = program.load_method("forward")
    return lambda *inputs: (program, method.execute(list(inputs))[0])[1]


@dataclass(frozen=True)
class Exported:
    model: Any
    folder: Path
    before: dict[str, torch.Tensor]

    @property
    def path(self) -> Path:
        return self.folder / PROGRAM


def export(folder: Path, arch: str, grid: Grid | None) -> Exported:
    model = load_model(tiny_base(folder, arch)).eval()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    weights = {} if grid is None else rounded(model, grid)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # the fast way must not give up
        build_executorch(model, weights, folder, context_length=CONTEXT, bos=1, stop=[2, 0])
    return Exported(model, folder, before)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(tmp_path_factory.mktemp("plain"), "llama", None)


@pytest.fixture(scope="module")
def integer(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(tmp_path_factory.mktemp("integer"), "llama", XNNPACK_INT4)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_rebuilt_decoder_answers_as_transformers(tmp_path: Path, arch: str) -> None:
    register_operators()
    model, tokens = load_model(tiny_base(tmp_path, arch)).eval(), random_tokens(120)
    with torch.no_grad():
        decoder = Decoder(model, {}, CONTEXT, gemma=arch == "gemma3")
        found = answers(decoder, tokens, 100)  # Gemma's window is 64
    assert (found - logits(model, tokens, 100)).abs().max() < 1e-4
    windows = [each.window for each in decoder.attention]
    assert windows == ([64, None] if arch == "gemma3" else [None, None])


def test_a_window_that_holds_the_whole_context_needs_no_mask(tmp_path: Path) -> None:
    model = load_model(tiny_base(tmp_path, "gemma3"))
    assert [each.window for each in Decoder(model, {}, 64, gemma=True).attention] == [None, None]


def test_tanh_gelu_is_torchs() -> None:
    x = torch.linspace(-6, 6, 1001)
    assert (TanhGELU()(x) - torch.nn.functional.gelu(x, approximate="tanh")).abs().max() < 1e-6


@pytest.mark.parametrize("grid", [XNNPACK_INT4, XNNPACK_INT8])
def test_weights_arrive_as_they_were_quantised(grid: Grid) -> None:
    torch.manual_seed(0)
    weight = quantise(torch.randn(24, 64), grid)
    found = IntegerLinear(weight, None)(torch.eye(64)).T
    assert torch.equal(found, weight.dequantise())
    whole = quantise(torch.randn(24, 64), XNNPACK_INT8)
    looked_up = IntegerEmbedding(whole, 8.0)(torch.arange(24)) if _operators() else None
    assert torch.allclose(looked_up, whole.dequantise() * 8.0, rtol=1e-6, atol=0)


def _operators() -> bool:
    register_operators()
    return True


def test_what_xnnpack_cannot_store_is_refused() -> None:
    with pytest.raises(ModelError, match="cannot store 4 bits in blocks of 32 with zero points"):
        IntegerLinear(quantise(torch.randn(8, 64), ONNX_INT4), None)
    with pytest.raises(ModelError, match="cannot store rows of 80 weights"):
        IntegerLinear(quantise(torch.randn(8, 80), XNNPACK_INT4), None)


def test_the_float_program_answers_as_torch(plain: Exported) -> None:
    tokens = random_tokens(60)
    run = load(plain.path)
    for prompt in (1, 2, 40):  # the shortest first: nothing may depend on an earlier, longer prompt
        assert (answers(run, tokens, prompt) - logits(plain.model, tokens, prompt)).abs().max() < 1e-3
    longest = random_tokens(CONTEXT - 1)
    assert (answers(run, longest, CONTEXT - 1) - logits(plain.model, longest, CONTEXT - 1)).abs().max() < 1e-3


@pytest.mark.parametrize("grid", [XNNPACK_INT4, XNNPACK_INT8])
def test_scales_that_are_part_of_a_larger_tensor_arrive(tmp_path: Path, grid: Grid) -> None:
    register_operators()
    model, tokens = load_model(tiny_base(tmp_path)).eval(), random_tokens(12)
    parts = {}
    for name, weight in rounded(model, grid).items():
        larger = torch.cat((torch.full_like(weight.scales, 9.0), weight.scales))
        parts[name] = replace(weight, scales=larger[len(weight.scales) :])
    with torch.no_grad():
        expected = answers(Decoder(model, parts, CONTEXT, gemma=False).eval(), tokens, 10)
    build_executorch(model, parts, tmp_path, context_length=CONTEXT, bos=1, stop=[2, 0])
    assert (answers(load(tmp_path / PROGRAM), tokens, 10) - expected).abs().max() < 1e-2


def test_the_model_is_left_as_it_was(plain: Exported) -> None:
    after = plain.model.state_dict()
    assert after.keys() == plain.before.keys()
    assert all(torch.equal(after[name], each) for name, each in plain.before.items())
    assert logits(plain.model, random_tokens(5), 5).isfinite().all()


def test_the_runners_metadata_is_in_the_program(plain: Exported) -> None:
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(plain.path)
    found = {name: program.load_method(name).execute([]) for name in program.method_names - {"forward"}}
    assert found == {
        "get_bos_id": [1],
        "get_eos_ids": [2, 0],
        "get_max_seq_len": [CONTEXT],
        "get_max_context_len": [CONTEXT],
        "get_vocab_size": [384],
        "get_n_layers": [2],
        "use_kv_cache": [True],
        "use_sdpa_with_kv_cache": [True],
        "enable_dynamic_shape": [True],
    }


def test_gemmas_windows_norms_and_two_rotary_bases_survive(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    exported, tokens = export(tmp_path, "gemma3", None), random_tokens(120)
    assert capfd.readouterr().err == ""  # the operators' own lines about allocators are kept off
    found = answers(load(exported.path), tokens, 100)
    assert (found - logits(exported.model, tokens, 100)).abs().max() < 1e-3


@pytest.mark.slow
def test_qwens_norms_of_queries_and_keys_survive(tmp_path: Path) -> None:
    exported, tokens = export(tmp_path, "qwen3", None), random_tokens(60)
    found = answers(load(exported.path), tokens, 40)
    assert (found - logits(exported.model, tokens, 40)).abs().max() < 1e-3


def test_the_integer_program_answers_as_torch_on_the_same_grid(integer: Exported, plain: Exported) -> None:
    tokens = random_tokens(60)
    found = answers(load(integer.path), tokens, 40)
    with torch.no_grad():
        decoder = Decoder(integer.model, rounded(integer.model), CONTEXT, gemma=False)
        wanted = answers(decoder, tokens, 40)
    # Both round activations to int8; a sum in another order can tip one of them to the next step.
    assert torch.corrcoef(torch.stack((found.ravel(), wanted.ravel())))[0, 1] > 0.999
    assert (found - logits(integer.model, tokens, 40)).abs().max() > 0.05  # it is the integer model
    assert integer.path.stat().st_size < plain.path.stat().st_size / 2.5


def test_a_layer_is_one_delegate(integer: Exported) -> None:
    assert delegates(integer.path) == 2 + 1


def delegates(path: Path) -> int:
    from executorch.exir._serialize._program import deserialize_pte_binary

    plans = deserialize_pte_binary(path.read_bytes()).program.execution_plan
    return len(next(plan for plan in plans if plan.name == "forward").delegates)


def test_tied_codes_are_stored_once_and_untouched(integer: Exported) -> None:
    codes = rounded(integer.model)["lm_head"].codes
    stored = (codes.to(torch.int16) - 128).to(torch.int8).numpy().tobytes()
    content = integer.path.read_bytes()
    assert content.count(stored) == 1
    assert share_equal_bytes(integer.path) == 0
    assert integer.path.read_bytes() == content


def test_files_of_another_layout_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.pte"
    path.write_bytes(b"ET12" * 50)
    with pytest.raises(ValueError, match="no extended header"):
        share_equal_bytes(path)
    assert path.read_bytes() == b"ET12" * 50


def test_another_version_of_the_library_takes_the_ordinary_way(
    integer: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(templates, "WRITTEN_FOR", "0.9.")
    with torch.no_grad():
        decoder = Decoder(integer.model, rounded(integer.model), CONTEXT, gemma=False).eval()
    with pytest.warns(
        UserWarning, match=r"whole model at once, which is slow: executorch 1\.\S+ is not 0\.9"
    ):
        assert not write_program(decoder, {"get_vocab_size": 384}, tmp_path / PROGRAM)
    tokens = random_tokens(20)
    found, wanted = (answers(load(each), tokens, 12) for each in (tmp_path / PROGRAM, integer.path))
    assert torch.equal(found, wanted)
    assert delegates(tmp_path / PROGRAM) == delegates(integer.path)
    assert (tmp_path / PROGRAM).stat().st_size < 1.01 * integer.path.stat().st_size


def test_a_stitched_program_with_wrong_weights_is_noticed(
    plain: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from exporters.executorch import lowering

    decoder = Decoder(plain.model, {}, CONTEXT, gemma=False)
    lowering._check_output(decoder, plain.path, 1)
    with torch.no_grad():
        for segment in decoder.segments:
            for each in segment.modules():
                if isinstance(each, FloatLinear):
                    each.weight = each.weight.flip(0)
    with pytest.raises(templates.UnsuitedError, match="correlate only by"):
        lowering._check_output(decoder, plain.path, 1)


def test_constants_that_a_pass_changed_are_noticed(plain: Exported) -> None:
    segment = Decoder(plain.model, {}, CONTEXT, gemma=False).segments[0]
    template = object.__new__(templates._Template)

    class Passed:
        state_dict = dict(segment.state_dict())  # noqa: RUF012

    template.passed = Passed()
    template._check_constants(segment)
    Passed.state_dict["q.weight"] = Passed.state_dict["q.weight"] * 2
    with pytest.raises(templates.UnsuitedError, match=r"changed q\.weight"):
        template._check_constants(segment)


def test_segments_share_a_template_only_if_their_graphs_are_equal(integer: Exported) -> None:
    model = integer.model
    kinds = {
        templates._kind(Decoder(model, rounded(model, grid), CONTEXT, gemma=False).segments[1])
        for grid in (XNNPACK_INT4, XNNPACK_INT8)
    }
    kinds.add(templates._kind(Decoder(model, {}, CONTEXT, gemma=False).segments[1]))
    again = templates._kind(Decoder(model, {}, CONTEXT, gemma=False).segments[1])
    assert len(kinds) == 3 and again in kinds


def test_other_architectures_and_settings_are_refused(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    other = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=16))
    kwargs: dict[str, Any] = {"context_length": CONTEXT, "bos": None, "stop": [2], "progress": SILENT}
    with pytest.raises(ModelError) as caught:
        build_executorch(other, {}, tmp_path, **kwargs)
    assert all(name in str(caught.value) for name in ("GPT2LMHeadModel", *supported_architectures()))
    model = load_model(tiny_base(tmp_path, "llama"))
    model.config.rope_parameters["rope_type"] = "dynamic"
    with pytest.raises(ModelError, match=r"rotary scaling \(dynamic\)"):
        build_executorch(model, {}, tmp_path, **kwargs)
    assert not (tmp_path / PROGRAM).exists()


def test_a_setting_that_the_graph_leaves_out_is_noticed(tmp_path: Path) -> None:
    model = load_model(tiny_base(tmp_path, "llama"))
    for layer in model.model.layers:
        layer.mlp.forward = lambda x: torch.zeros_like(x)
    with pytest.raises(ModelError, match="other logits than transformers"):
        build_executorch(model, {}, tmp_path, context_length=CONTEXT, bos=None, stop=[2])


STOCK = """
import json, sys
for name in ("toolkit", "exporters", "runtimes", "benchmarks"):
    sys.modules[name] = None  # importing it is an error
import executorch.extension.llm.custom_ops.custom_ops, executorch.kernels.quantized
from executorch.extension.llm.runner import GenerationConfig, TextLLMRunner

runner, said = TextLLMRunner(sys.argv[1], sys.argv[2]), []
config = GenerationConfig(echo=False, temperature=0.0, max_new_tokens=int(sys.argv[4]))
runner.generate(sys.argv[3], config, said.append)
with open(sys.argv[5], "w") as file:  # the runner itself writes to standard output
    json.dump("".join(said), file)
"""


def test_the_stock_runner_alone_loads_it_and_says_what_torch_says(plain: Exported, tmp_path: Path) -> None:
    prompt, wanted = _readable_answer(plain, length=8)
    tokenizer = plain.folder / "tiny-llama" / "tokenizer.json"
    done = subprocess.run(
        [sys.executable, "-I", "-c", STOCK, str(plain.path), str(tokenizer), prompt, "8", "said.json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "said.json").read_text()) == wanted


def _readable_answer(exported: Exported, length: int) -> tuple[str, str]:
    """A prompt and torch's greedy answer of tokens that are text: the runner's binding takes no other."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(exported.folder / "tiny-llama", trust_remote_code=False)
    for number in range(400):
        prompt = f"Review number {number} of the book"
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        given = ids.shape[1]
        for _ in range(length):
            ids = torch.cat((ids, logits(exported.model, ids, ids.shape[1]).argmax(1, keepdim=True)), 1)
        pieces = [tokenizer.decode([each]) for each in ids[0, given:].tolist()]
        if not any("\ufffd" in each for each in pieces) and not {0, 1, 2} & set(ids[0, given:].tolist()):
            return prompt, "".join(pieces)
    raise AssertionError("no prompt has a readable answer")
