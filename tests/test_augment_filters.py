import pytest
from scripted import rater, writer

from toolkit.augment.filters import (
    FILTERS,
    Lengths,
    Refusal,
    Sieve,
    nearest_duplicate,
    normalised,
    repeats_held_out,
    repetitiveness,
    unusual_length,
)
from toolkit.augment.labels import label_targets, next_labels
from toolkit.augment.reading import Candidate
from toolkit.profiles import Example, Profile
from toolkit.tasks import load_task

RATING, REWRITE = load_task("lamp-3"), load_task("rewrite")


def sieve(profile=None, task=RATING, targets=None, near=0.85):
    return Sieve(profile or rater(), task, near_duplicate=near, targets=targets)


def refused(result):
    assert isinstance(result, Refusal), result
    assert result.filter in FILTERS
    return result.filter, result.reason


GOOD = "A copper watering can with a long and patient spout."


def test_a_good_example_is_kept_in_the_tasks_own_form():
    kept = sieve().sift(Candidate(GOOD, " 4.0 "))
    assert kept == Candidate(GOOD, "4")


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (Candidate(GOOD, "excellent"), "'excellent' is none of the task's labels"),
        (Candidate(GOOD, "9"), "none of the task's labels"),
        (Candidate("", "4"), "the input: empty"),
        (Candidate("Nice.", "4"), "the input: 5 characters, and the person's have"),
        (Candidate("Nice. " * 40, "4"), "the input: 240 characters"),
        (Candidate("", "{", "not valid JSON"), "not valid JSON"),
        (Candidate(GOOD + "\ud83d", "4"), "half a character"),
    ],
)
def test_format(candidate, reason):
    name, found = refused(sieve().sift(candidate))
    assert name == "format"
    assert reason in found


def test_format_of_a_free_output():
    assert refused(sieve(writer(), REWRITE).sift(Candidate("Please bring the hammer on day 9.", ""))) == (
        "format",
        "the output: empty",
    )
    long = Candidate("Please bring the hammer on day 9.", "oi / " * 20)
    assert refused(sieve(writer(), REWRITE).sift(long))[0] == "format"


def test_lengths_have_slack():
    lengths = Lengths.of(["a" * 10, "a" * 20])
    assert [unusual_length("a" * size, lengths) is None for size in (4, 5, 30, 31)] == [
        False,
        True,
        True,
        False,
    ]


def test_repetition():
    assert repetitiveness("A tin of tea that I have kept my buttons in since Thursday.") == 0
    assert repetitiveness("the sea and " * 8) > 0.8
    assert repetitiveness("tea") == 0
    round_and_round = Candidate("It is mine, it is mine, it is mine, it is mine, it is mine.", "4")
    assert refused(sieve().sift(round_and_round))[0] == "repetition"


def test_a_person_who_repeats_words_may():
    chorus = "row row row row row row row row the boat"
    profile = Profile("p", "lamp-3", (Example("1", chorus, "5"),), ())
    other = "sail sail sail sail sail sail sail sail ship"
    assert isinstance(sieve(profile).sift(Candidate(other, "5")), Candidate)


@pytest.mark.parametrize(
    "text",
    [
        "A brass barometer that only ever says change, and is right.",
        "a BRASS barometer, that only ever says 'change' and is right",
        "A brass barometer that only ever says rain, and is right.",
        "Well: A brass barometer that only ever says change, and is right. So.",
        "barometer that only ever says change",
    ],
)
def test_held_out_inputs_are_refused_and_counted_apart(text):
    assert refused(sieve().sift(Candidate(text, "3")))[0] == "held_out"


def test_a_held_out_input_in_a_free_output_is_refused():
    leaked = Candidate("Please bring the tall thing to day 9.", "return the ladder to my shed / ta")
    assert refused(sieve(writer(), REWRITE).sift(leaked))[0] == "held_out"


def test_what_only_shares_a_few_words_with_a_held_out_input_is_not_refused():
    held_out = [normalised("A brass barometer that only ever says change, and is right.")]
    assert repeats_held_out(normalised("A brass bell"), held_out, 0.85) is None
    assert (
        repeats_held_out(normalised("A brass telescope that shows the moon upside down"), held_out, 0.85)
        is None
    )
    assert repeats_held_out("tea", ["i like tea and toast"], 0.85) is None
    assert repeats_held_out("tea", ["tea"], 0.85) == "repeats a held-out text"


def test_duplicates_of_the_history_and_of_each_other():
    one = sieve()
    assert (
        refused(one.sift(Candidate("the KETTLE number 0 arrived; and I have kept it", "1")))[0] == "duplicate"
    )
    assert isinstance(one.sift(Candidate(GOOD, "4")), Candidate)
    assert refused(one.sift(Candidate(GOOD.upper(), "5"))) == (
        "duplicate",
        "another example has the same text",
    )


def test_near_duplicates_by_the_recipes_threshold():
    changed = Candidate("The kettle number 0 arrived and I have lost it.", "1")
    name, reason = refused(sieve().sift(changed))
    assert name == "near_duplicate"
    assert "the kettle number 0 arrived" in reason
    assert isinstance(sieve(near=0.99).sift(changed), Candidate)
    assert nearest_duplicate("abcd", ["abcd"], 1.0) is None


def test_a_copied_free_output_is_a_duplicate():
    copied = Candidate("Do carry a small hammer to me on day 9.", "oi / kettle / day 0 / ta")
    assert refused(sieve(writer(), REWRITE).sift(copied)) == (
        "duplicate",
        "another example has the same output",
    )


def test_a_history_without_inputs_is_compared_by_its_outputs():
    tweets = tuple(Example(str(n), "", f"today the {word} sang to me again") for n, word in enumerate("abcd"))
    one = sieve(Profile("t", "lamp-7", tweets, ()), load_task("lamp-7"))
    assert refused(one.sift(Candidate("", "Today the A sang to me again")))[0] == "duplicate"
    assert refused(one.sift(Candidate("", "today the f sang to me again")))[0] == "near_duplicate"
    assert isinstance(one.sift(Candidate("", "my neighbour's cat has opinions")), Candidate)


def test_surplus_of_a_label():
    one = sieve(targets={"4": 1})
    assert isinstance(one.sift(Candidate(GOOD, "4")), Candidate)
    assert refused(one.sift(Candidate("Wool socks that have crossed two bogs.", "4"))) == (
        "surplus",
        "there are enough examples of '4'",
    )


def test_normalised_text_in_any_script():
    assert normalised("  The “Kettle”,\tBOILS… ") == "the kettle boils"
    assert normalised("ﬁne Ⅳ") == "fine iv"
    assert normalised("हिन्दी में, लिखा!") == "हिन्दी में लिखा"
    assert normalised("👍") == "👍"


def test_targets_follow_the_persons_own_labels():
    assert label_targets(rater((3, 0, 0, 2, 5)).history, RATING, 20) == {"1": 6, "4": 4, "5": 10}
    assert label_targets(rater((3, 0, 0, 2, 5)).history, RATING, 1) == {"5": 1}
    uneven = label_targets(rater((1, 1, 1, 0, 0)).history, RATING, 4)
    assert sum(uneven.values()) == 4
    assert set(uneven) == {"1", "2", "3"}
    assert label_targets(writer().history, REWRITE, 5) is None


def test_a_history_that_is_not_of_answers_has_no_targets():
    papers = Profile("a", "lamp-1", (Example("1", "A title", "An abstract."),), ())
    assert label_targets(papers.history, load_task("lamp-1"), 5) is None


def test_the_next_labels_are_those_that_are_missing():
    assert sorted(filter(None, next_labels({"1": 3, "5": 1}, 4))) == ["1", "1", "1", "5"]
    assert next_labels({"1": 1, "2": 0}, 3) == ["1", "1", "1"]
    assert next_labels(None, 2) == [None, None]
