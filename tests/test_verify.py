"""Survival of the personalisation: the formulas by hand, and what must fail."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from exporters.verify import (
    Array,
    Thresholds,
    Verification,
    effect_correlation,
    effect_size,
    kl_divergence,
    log_softmax,
    verify,
)
from toolkit.errors import EdgePLMError

VOCAB = 11
LIMITS = Thresholds(min_correlation=0.75, min_size=0.6, max_size=1.6, max_kl=0.6)
PROMPTS = [[3, 4, 5], [6, 7], [8]]
NEUTRAL = [[1, 2, 3, 4], [5, 6, 7, 8]]
STOP = [0]


class Table:
    """A model whose next-token logits depend on the last token and the position."""

    def __init__(self, seed: int, base: "Table | None" = None, size: float = 1.0) -> None:
        noise = np.random.default_rng(seed).normal(size=(32, VOCAB, VOCAB)).astype(np.float32)
        self.rows = noise if base is None else base.rows + size * noise

    def changed(self, change: Callable[[Array], Array]) -> "Table":
        other = Table(0)
        other.rows = change(self.rows)
        return other

    def score(self, ids: Sequence[int], first: int = 0) -> Array:
        return np.stack([self.rows[place, token] for place, token in enumerate(ids)])[first:]

    def generate(self, ids: Sequence[int], max_new_tokens: int, stop: Sequence[int]) -> list[int]:
        given: list[int] = []
        while len(given) < max_new_tokens:
            token = int(self.score([*ids, *given])[-1].argmax())
            if token in stop:
                break
            given.append(token)
        return given


BASE = Table(1)
PERSONAL = Table(2, BASE, size=0.5)
TWIN = Table(3, BASE, size=0.1)  # the base with rounding errors


def checked(artifact: Table, twin: Table | None = TWIN, limits: Thresholds = LIMITS) -> Verification:
    return verify(
        float_base=BASE,
        float_personalised=PERSONAL,
        artifact_base=twin,
        artifact=artifact,
        prompts=PROMPTS,
        stop=STOP,
        neutral=NEUTRAL,
        thresholds=limits,
        continuation=5,
    )


def softmax(row: Sequence[float]) -> list[float]:
    powers = [math.exp(value) for value in row]
    return [power / sum(powers) for power in powers]


def test_log_softmax() -> None:
    logits = np.array([[0.0, math.log(3.0)], [1000.0, 1000.0]], dtype=np.float32)
    assert log_softmax(logits) == pytest.approx(
        np.array([[math.log(0.25), math.log(0.75)], [math.log(0.5)] * 2]), rel=1e-6
    )


def test_kl_divergence() -> None:
    p, q = [1.0, 2.0, 0.5], [0.0, 2.5, -1.0]
    wanted = sum(a * math.log(a / b) for a, b in zip(softmax(p), softmax(q), strict=True))
    found = kl_divergence(np.array([p, p], np.float32), np.array([q, p], np.float32))
    assert found == pytest.approx(np.array([wanted, 0.0]), abs=1e-9)
    assert wanted > 0.1


def test_a_constant_on_all_logits_is_no_change() -> None:
    effect = np.array([[1.0, 2.0, -3.0]], np.float32)
    assert effect_correlation(effect, effect + 7) == pytest.approx(1.0)
    assert effect_size(effect, effect + 7) == pytest.approx(1.0)
    assert kl_divergence(effect, effect + 7) == pytest.approx(0.0, abs=1e-9)


def test_correlation_and_size() -> None:
    a, b = np.array([2.0, -1.0, -1.0]), np.array([1.0, 1.0, -2.0])  # both of mean zero
    cosine = (2 - 1 + 2) / (math.sqrt(6) * math.sqrt(6))
    assert effect_correlation(a[None].astype(np.float32), b[None].astype(np.float32)) == pytest.approx(cosine)
    assert effect_size(a[None].astype(np.float32), 3 * b[None].astype(np.float32)) == pytest.approx(3.0)
    assert effect_correlation(a[None].astype(np.float32), -a[None].astype(np.float32)) == pytest.approx(-1.0)


def test_no_change_at_all_is_zero_and_not_nan() -> None:
    zero, some = np.zeros((1, 3), np.float32), np.array([[1.0, 2.0, 4.0]], np.float32)
    assert effect_correlation(some, zero) == effect_correlation(zero, some) == 0
    assert effect_size(some, zero) == 0
    assert effect_size(zero, some) == 0


def test_the_figures_of_a_whole_verification_by_hand() -> None:
    artifact = Table(4, TWIN.changed(lambda rows: rows + PERSONAL.rows - BASE.rows), size=0.2)
    found = checked(artifact)
    correlation, size, kl, top, agreement = [], [], [], [], []
    for prompt in PROMPTS:
        answer = PERSONAL.generate(prompt, 5, STOP)
        ids = [*prompt, *answer]
        places = range(len(prompt) - 1, len(ids))  # those that predict the answer, and what follows it
        cosines, sizes, divergences, tops = [], [], [], []
        for place in places:
            f = (PERSONAL.rows - BASE.rows)[place, ids[place]].astype(float)
            q = (artifact.rows - TWIN.rows)[place, ids[place]].astype(float)
            f, q = f - f.mean(), q - q.mean()
            cosines.append(f @ q / math.sqrt((f @ f) * (q @ q)))
            sizes.append(math.sqrt((q @ q) / (f @ f)))
            p1, p2 = softmax(PERSONAL.rows[place, ids[place]]), softmax(artifact.rows[place, ids[place]])
            divergences.append(sum(a * math.log(a / b) for a, b in zip(p1, p2, strict=True)))
            tops.append(float(np.argmax(p1) == np.argmax(p2)))
        correlation.append(np.mean(cosines))
        size.append(np.mean(sizes))
        kl.append(np.mean(divergences))
        top.append(np.mean(tops))
        given = artifact.generate(prompt, 5, STOP)
        same = next(
            (i for i, (a, b) in enumerate(zip(answer, given, strict=False)) if a != b),
            min(len(answer), len(given)),
        )
        agreement.append(same / max(len(answer), len(given)))
    assert found.survival is not None
    assert found.survival.correlation == pytest.approx(correlation, rel=1e-5)
    assert found.survival.size == pytest.approx(size, rel=1e-5)
    assert found.survival.kl == pytest.approx(kl, rel=1e-5)
    assert found.survival.same_top == pytest.approx(top)
    assert found.greedy_agreement == pytest.approx(np.mean(agreement))
    assert 0 < found.greedy_agreement < 1
    for model, perplexity in ((PERSONAL, found.perplexity_float), (artifact, found.perplexity_artifact)):
        nll = [
            -math.log(softmax(model.rows[place, window[place]])[window[place + 1]])
            for window in NEUTRAL
            for place in range(3)
        ]
        assert perplexity == pytest.approx(math.exp(np.mean(nll)), rel=1e-5)
    neutral = [kl_divergence(PERSONAL.score(window), artifact.score(window)).mean() for window in NEUTRAL]
    assert found.kl_neutral == pytest.approx(np.mean(neutral), rel=1e-6)
    assert found.passed


def test_an_identical_artifact_is_perfect() -> None:
    found = checked(PERSONAL, BASE)
    assert found.survival is not None
    assert found.survival.correlation == pytest.approx([1.0] * 3)
    assert found.survival.size == pytest.approx([1.0] * 3)
    assert found.survival.kl == [0.0] * 3
    assert found.survival.same_top == [1.0] * 3
    assert (found.greedy_agreement, found.kl_neutral) == (1.0, 0.0)
    assert found.perplexity_float == found.perplexity_artifact
    assert (found.passed, found.failures) == (True, [])


def test_an_artifact_that_answers_like_the_base_fails() -> None:
    silent = Table(5, TWIN, size=1e-3)
    found = checked(silent)
    assert found.survival is not None
    assert abs(np.mean(found.survival.correlation)) < 0.3
    assert np.mean(found.survival.size) < 0.1
    assert not found.passed
    assert [failure.partition(" is ")[0] for failure in found.failures][:2] == [
        "correlation of the adapter's effect",
        "size of the adapter's effect",
    ]
    exact_copy = checked(TWIN)
    assert exact_copy.survival is not None
    assert exact_copy.survival.correlation == exact_copy.survival.size == [0.0] * 3


def test_each_threshold_is_checked_at_its_own_value() -> None:
    artifact = Table(4, TWIN.changed(lambda rows: rows + PERSONAL.rows - BASE.rows), size=0.2)
    survival = checked(artifact).survival
    assert survival is not None
    correlation, size, kl = (
        float(np.mean(values)) for values in (survival.correlation, survival.size, survival.kl)
    )
    exact = Thresholds(correlation, size, size, kl)
    assert checked(artifact, limits=exact).failures == []
    for changes, wanted in (
        (
            {"min_correlation": 0.999},
            f"correlation of the adapter's effect is {correlation:.3f}, wanted at least 0.999",
        ),
        ({"min_size": 1.2, "max_size": 9.0}, f"size of the adapter's effect is {size:.3f}, wanted 1.2 to 9"),
        (
            {"min_size": 0.1, "max_size": 0.9},
            f"size of the adapter's effect is {size:.3f}, wanted 0.1 to 0.9",
        ),
        ({"max_kl": 0.001}, f"KL divergence from float is {kl:.3f}, wanted at most 0.001"),
    ):
        assert checked(artifact, limits=replace(exact, **changes)).failures == [wanted]


def test_an_effect_that_is_too_large_or_reversed_fails() -> None:
    for factor, what in ((3.0, "size"), (-1.0, "correlation")):
        artifact = TWIN.changed(lambda rows, factor=factor: rows + factor * (PERSONAL.rows - BASE.rows))
        found = checked(artifact, limits=replace(LIMITS, max_kl=100.0))
        assert [failure.partition(" ")[0] for failure in found.failures] == [what]


def test_without_an_adapter_only_the_divergence_counts() -> None:
    found = checked(PERSONAL, None)
    assert (found.survival, found.failures) == (None, [])
    (failure,) = checked(Table(9), None).failures
    assert failure.startswith("KL divergence from float is ")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_an_artifact_of_nans_or_huge_logits_fails_and_does_not_crash() -> None:
    nans = checked(PERSONAL.changed(lambda rows: np.full_like(rows, np.nan)))
    assert len(nans.failures) == 3
    huge = checked(PERSONAL.changed(lambda rows: rows * np.float32(1e5)))
    assert not huge.passed
    assert huge.perplexity_artifact == math.inf


def test_a_longer_or_shorter_answer_agrees_in_part() -> None:
    stopping = PERSONAL.changed(lambda rows: rows.copy())
    answer = PERSONAL.generate(PROMPTS[0], 5, STOP)
    assert len(answer) == 5
    stopping.rows[len(PROMPTS[0]) + 1, answer[1], STOP[0]] = 100.0  # ends after two tokens
    found = verify(
        float_base=BASE,
        float_personalised=PERSONAL,
        artifact_base=None,
        artifact=stopping,
        prompts=PROMPTS[:1],
        stop=STOP,
        neutral=NEUTRAL,
        thresholds=replace(LIMITS, max_kl=100.0),
        continuation=5,
    )
    assert found.greedy_agreement == pytest.approx(2 / 5)


def test_nothing_to_compare_on_is_an_error() -> None:
    for prompts, neutral in (([], NEUTRAL), (PROMPTS, [])):
        with pytest.raises(
            EdgePLMError, match=r"^verify: there are \d prompts and \d neutral texts to compare"
        ):
            verify(
                float_base=BASE,
                float_personalised=PERSONAL,
                artifact_base=TWIN,
                artifact=PERSONAL,
                prompts=prompts,
                stop=STOP,
                neutral=neutral,
                thresholds=LIMITS,
            )


def test_the_json_form_holds_means_and_the_worst() -> None:
    found = checked(Table(4, TWIN.changed(lambda rows: rows + PERSONAL.rows - BASE.rows), size=0.2))
    data = json.loads(json.dumps(found.as_dict()))
    survival = found.survival
    assert survival is not None
    assert data["passed"] is True
    assert data["survival"]["correlation"] == survival.correlation
    assert data["survival"]["correlation_mean"] == pytest.approx(np.mean(survival.correlation))
    assert data["survival"]["correlation_worst"] == min(survival.correlation)
    assert data["survival"]["kl_mean"] == pytest.approx(np.mean(survival.kl))
    assert checked(PERSONAL, None).as_dict()["survival"] is None
