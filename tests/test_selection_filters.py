"""Filters by models, one by one: each refuses what it is for, and says when it does not act."""

from dataclasses import replace

import numpy as np
import pytest
from tiny import tiny_base

from toolkit.augment.selection.agreement import Ridge, label_agreement
from toolkit.augment.selection.difficulty import Dynamics, too_hard
from toolkit.augment.selection.instruction import does_not_follow, following_difficulty
from toolkit.augment.selection.matching import distance, gaussian_kernel, left_out, mmd2
from toolkit.augment.selection.outlying import fewest_needed, p_values, too_few
from toolkit.augment.selection.similar import leakage, semantic_duplicates
from toolkit.augment.selection.style import style_agreement
from toolkit.finetune import open_chat
from toolkit.models import load_model
from toolkit.profiles import Example
from toolkit.tasks import load_task


def unit(rows):
    rows = np.asarray(rows, dtype=float)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def cloud(count, middle, seed=0, spread=0.3):
    """Unit vectors about a direction."""
    return unit(np.random.default_rng(seed).normal(size=(count, len(middle))) * spread + middle)


def test_p_values_count_the_persons_own():
    assert p_values([0.5, 3, 9], [1, 2, 3, 4]).tolist() == [1.0, 3 / 5, 1 / 5]
    assert fewest_needed(0.05) == 19
    assert fewest_needed(0.1) == 9
    assert p_values([9], range(19))[0] == 1 / 20 + 10 / 20
    assert too_few(19, "examples", 0.05) is None
    assert too_few(18, "examples", 0.05) == "18 examples, and 19 are needed to judge by 0.05"


def test_the_discrepancy_is_that_of_the_formula():
    rows = cloud(7, [1, 0, 0])
    kernel = gaussian_kernel(rows)
    own, other = [0, 1, 2], [3, 4, 5, 6]
    pairs = [np.linalg.norm(rows[i] - rows[j]) for i in range(7) for j in range(i)]
    width = np.median(pairs)
    assert kernel[1, 5] == pytest.approx(np.exp(-(np.linalg.norm(rows[1] - rows[5]) ** 2) / (2 * width**2)))
    within = np.mean([kernel[i, j] for i in own for j in own if i != j])
    within += np.mean([kernel[i, j] for i in other for j in other if i != j])
    across = np.mean([kernel[i, j] for i in own for j in other])
    assert mmd2(kernel, own, other) == pytest.approx(within - 2 * across)


def test_the_discrepancy_is_small_for_the_same_and_great_for_another_distribution():
    rows = np.vstack([cloud(60, [1, 0, 0, 0], seed=1), cloud(60, [0, 1, 0, 0], seed=2)])
    kernel = gaussian_kernel(rows)
    same = distance(kernel, range(30), range(30, 60), seed=0)
    apart = distance(kernel, range(30), range(60, 90), seed=0)
    assert abs(same.mmd2) < 0.03 < 0.2 < apart.mmd2
    assert apart.p == 1 / 500
    assert same.p > 0.05
    assert distance(kernel, range(30), range(30, 60), seed=0) == same
    with pytest.raises(ValueError, match="two members each"):
        mmd2(kernel, range(30), [5])


def test_leaving_out_takes_those_from_elsewhere_and_not_more_than_asked():
    own = cloud(30, [1, 0, 0, 0], seed=1)
    near, far = cloud(12, [1, 0, 0, 0], seed=2), cloud(4, [0, 0, 1, 0], seed=3)
    kernel = gaussian_kernel(np.vstack([own, near, far]))
    others = range(30, 46)
    out = left_out(kernel, range(30), others, keep=12)
    assert sorted(out) == [42, 43, 44, 45]
    left = [place for place in others if place not in out]
    assert mmd2(kernel, range(30), left) < mmd2(kernel, range(30), others)
    # One after the other, it is each time the best to leave out.
    best = min(others, key=lambda gone: mmd2(kernel, range(30), [each for each in others if each != gone]))
    assert out[0] == best
    assert left_out(kernel, range(30), others, keep=16) == []


def test_leaving_out_keeps_the_labels_that_are_wanted():
    own, near, far = cloud(10, [1, 0, 0]), cloud(6, [1, 0, 0], seed=1), cloud(3, [0, 1, 0], seed=2)
    kernel = gaussian_kernel(np.vstack([own, near, far]))
    labels = ["good"] * 6 + ["bad"] * 3
    out = left_out(kernel, range(10), range(10, 19), 6, labels, {"good": 3, "bad": 3})
    assert len(out) == 3
    assert max(out) < 16  # those from elsewhere are all the bad ones that there are
    assert left_out(kernel, range(10), range(10, 19), 6, labels, {"good": 6, "bad": 3}) == []


def test_semantic_duplicates_of_the_history_and_of_what_is_kept():
    own = unit([[1, 0, 0]])
    new = unit([[1, 0.1, 0], [0, 1, 0], [0, 1, 0.1], [0, 0, 1]])
    found = semantic_duplicates(own, new, ["mine"], ["a", "b", "c", "d"], 0.9)
    assert set(found.refused) == {0, 2}
    assert found.refused[0] == "means nearly the same as 'mine' (cosine 1.00)"
    assert "'b'" in found.refused[2]
    assert not semantic_duplicates(own, new, ["mine"], list("abcd"), 0.999).refused


def test_leakage_is_told_beside_what_is_usual():
    own, new, held_out = unit([[1, 0], [1, 1]]), unit([[0, 1], [1, 0]]), unit([[0, 1]])
    found = leakage(own, new, held_out)
    assert (found.highest, found.median) == pytest.approx((1.0, 0.5))
    assert (found.history_highest, found.history_median) == pytest.approx((0.5**0.5, 0.5**0.5 / 2))
    assert leakage(own, new, held_out[:0]) is None


def test_ridge_leaves_out_as_a_fit_without_the_example_does():
    rows, targets = cloud(12, [1, 0, 0], spread=1), np.arange(12.0)[:, None]
    whole = Ridge.of(rows, targets)
    kernel = rows @ rows.T + 100
    weights = {
        penalty: np.linalg.solve(kernel + penalty * np.eye(12), targets) for penalty in (0.1, 0.3, 1, 3, 10)
    }
    penalty = next(each for each, found in weights.items() if np.allclose(found, whole.weights))
    rest = np.arange(12) != 4
    fit = np.linalg.solve(kernel[np.ix_(rest, rest)] + penalty * np.eye(11), targets[rest])
    assert whole.left_out[4] == pytest.approx(kernel[4, rest] @ fit, rel=1e-6)


def two_kinds(count, seed=0):
    return np.vstack([cloud(count, [1, 0, 0, 0], seed), cloud(count, [0, 1, 0, 0], seed + 1)])


@pytest.mark.parametrize(("labels", "numbers"), [(("good", "bad"), False), (("5", "1"), True)])
def test_a_label_that_the_history_contradicts_is_refused(labels, numbers):
    one, other = labels
    own, new = two_kinds(20), two_kinds(3, seed=7)
    given = [one, one, other, other, other, one]  # the third and the sixth are wrong
    found = label_agreement(own, [one] * 20 + [other] * 20, new, given, 0.05, numbers=numbers)
    assert set(found.refused) == {2, 5}
    assert found.refused[2] == f"the label is {other}, and examples of the history suggest {one}"
    assert "against" in found.note


def test_agreement_does_not_act_where_labels_cannot_be_predicted():
    own = cloud(40, [1, 0, 0, 0])
    labels = [str(1 + number % 5) for number in range(40)]
    found = label_agreement(own, labels, own[:5], labels[1:6], 0.05, numbers=True)
    assert not found.acts
    assert found.note.startswith(
        "labels cannot be predicted from the texts of the history: the mean error is"
    )
    few = label_agreement(own[:8], labels[:8], own[:5], labels[1:6], 0.05, numbers=True)
    assert few.note == "8 history examples, and 19 are needed to judge by 0.05"
    same = label_agreement(own, ["3"] * 40, own[:5], ["3"] * 5, 0.05, numbers=True)
    assert same.note == "all history examples have the same label"


SMALL = [f"the {noun} is {how} / ta" for noun in ("drain", "boiler", "tap", "sink", "valve") for how in (
    "fixed now", "leaking a bit", "done and dusted", "on the van", "sorted mate")]  # fmt: skip


def test_style_refuses_what_the_person_would_not_write():
    new = [
        "the radiator is done now / ta",
        "The Radiator, Which We Discussed; Is Now (finally) Repaired!",
        "the heater is sorted now / ta",
        " ".join(["the heater is sorted and on the van"] * 8) + " / ta",
    ]
    found = style_agreement(SMALL, new, 0.05)
    assert set(found.refused) == {1, 3}
    assert found.refused[3].startswith("unlike the person's texts: 66 words, and most of theirs have")
    assert "marks of punctuation a word, and most of theirs have 0.1" in found.refused[1]
    capital = style_agreement(SMALL, ["The boiler is done now / ta"], 0.05).refused[0]
    assert capital.startswith("unlike the person's texts: it does not (begins in small letters), and 100%")
    assert not style_agreement(SMALL[:8], new, 0.05).acts


def test_style_refuses_about_the_share_of_ones_own():
    refused = sum(
        len(style_agreement(SMALL[:place] + SMALL[place + 1 :], [SMALL[place]], 0.05).refused)
        for place in range(len(SMALL))
    )
    assert refused <= 2


def test_dynamics_are_those_of_the_map():
    found = Dynamics.of([np.log(2), np.log(4)])
    assert found.difficulty == pytest.approx(1.5 * np.log(2))
    assert found.confidence == pytest.approx(3 / 8)
    assert found.variability == pytest.approx(1 / 8)


def test_what_contradicts_the_real_examples_is_refused_and_what_is_trivial_only_if_asked():
    held_out = {str(number): [1.0 + number / 10, 0.8 + number / 10] for number in range(9)}
    losses = {"usual": [1.2, 1.0], "hard": [4.0, 5.0], "harder": [6.0, 6.0], "known": [0.01, 0.01]}
    ids = ["usual", "hard", "missing", "known", "harder"]
    found = too_hard(ids, losses, held_out, 0.1, None)
    assert list(found.refused) == [4, 1]  # the worst first
    assert found.refused[1] == (
        "contradicts what the real examples teach: a loss of 4.50 nats a token, and 1.30 is usual"
    )
    easy = too_hard(ids, losses, held_out, 0.1, 0.9)
    assert easy.refused[3] == "teaches nothing more: the model is 99% sure of it"
    few = too_hard(ids, losses, dict(list(held_out.items())[:8]), 0.1, None)
    assert not few.acts
    assert few.note == "8 history examples held out of training, and 9 are needed to judge by 0.1"


def test_an_answer_that_the_prompt_does_not_help_to_is_refused():
    found = {"a": 0.4, "b": 1.2, "c": 1.0, "d": 0.99}
    judged = does_not_follow(["a", "b", "missing", "c", "d"], found, [0.5] * 5, 1.0)
    assert list(judged.refused) == [1, 3]
    assert judged.refused[1] == "the prompt does not help to the answer: IFD 1.20, and below 1 is wanted"
    unusual = does_not_follow(["b"], found, [0.5, 1.1, 1.2], 1.0)
    assert not unusual.acts
    assert unusual.note.startswith("67% of the history's own examples")


@pytest.mark.usefixtures("one_thread")
def test_following_difficulty_is_the_ratio_of_two_losses(tmp_path):
    import torch

    base, task = tiny_base(tmp_path), load_task("rewrite")
    model, chat = load_model(base), open_chat(base)
    examples = [
        Example("one", "Please carry the kettle up.", "oi / kettle / up"),
        Example("two", "Please carry the lamp.", "oi / the lamp / ta"),
    ]
    found = following_difficulty(model, chat, task, examples, max_length=256)

    def loss(prompt, answer):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
        return float(torch.nn.functional.cross_entropy(logits, torch.tensor(answer)))

    for example in examples:
        answer = chat.answer(example.output)
        ratio = loss(chat.prompt(task.render(example.input)), answer) / loss(chat.prompt(""), answer)
        assert found[example.id] == pytest.approx(ratio, rel=1e-4)
    long = replace(examples[0], id="long", output="word " * 400)
    assert "long" not in following_difficulty(model, chat, task, [long], max_length=256)
