import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from made_up import arms, report, result, samples, verification

from benchmarks import figures
from benchmarks.plots import Bar, Dots, Scale, bar_plot, dot_plot, line_plot, scatter_plot
from benchmarks.report import (
    Arm,
    Augmentation,
    Check,
    Query,
    Refused,
    Report,
    TaskFacts,
    TeacherPart,
    render_report,
    write_report,
)
from benchmarks.verdicts import arm_interval, verdicts

VOID = {"meta", "br", "img", "input", "link", "hr"}
HOSTILE = '<script>alert("1")</script>'


class Page(HTMLParser):
    """Checks that tags are balanced, and collects what tests look for."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.links, self.labels = [], [], [], [], []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.tags.append((tag, named))
        self.ids += [named["id"]] if "id" in named else []
        self.links += [named["href"]] if "href" in named else []
        self.labels += named.get("aria-labelledby", "").split()
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text += data

    def all(self, tag):
        return [named for name, named in self.tags if name == tag]


def page(**changes):
    return Page(render_report(report(**changes)))


def test_a_full_report_is_one_well_formed_page(tmp_path):
    write_report(tmp_path / "report.html", report())
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    made = Page(text)
    headings = {match for match in made.ids if match.endswith("-h")}
    assert headings == {
        f"{part}-h"
        for part in ("quality", "answers", "survival", "speed", "size", "training", "caveats", "provenance")
    }


def test_it_needs_neither_scripts_nor_the_network():
    made = page()
    assert made.all("script") == made.all("link") == made.all("img") == []
    assert all(link.startswith("#") for link in made.links)
    text = render_report(report())
    assert not re.search(r"(src|href)=\"?(https?:)?//|url\(|@import", text)
    assert "default-src 'none'" in text


def test_ids_are_unique_and_every_reference_has_its_target():
    made = page()
    assert len(made.ids) == len(set(made.ids))
    assert {link.removeprefix("#") for link in made.links} <= set(made.ids)
    assert set(made.labels) <= set(made.ids)


def test_every_plot_is_named_and_has_figures_beside_it():
    made = page()
    plots = [named for named in made.all("svg") if "plot" in named.get("class", "")]
    assert len(plots) >= 10
    assert all(named["role"] == "img" and named["aria-labelledby"] for named in plots)
    assert all(named["scope"] for named in made.all("th"))
    assert all("data-label" in named for named in made.all("td"))
    assert len(made.all("caption")) >= 4


def test_light_dark_narrow_and_print_are_provided_for():
    text = render_report(report())
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    assert "max-width: 44rem" in text
    assert 'content="width=device-width, initial-scale=1"' in text


def test_hostile_text_stays_text_everywhere():
    made, golds = arms()
    hostile = tuple(replace(arm, name=f"{arm.name} {HOSTILE}", answers=(HOSTILE,) * 40) for arm in made)
    full = report()
    shown = page(
        title=HOSTILE,
        user=HOSTILE,
        task=TaskFacts(HOSTILE, HOSTILE, "mae", False),
        arms=hostile,
        queries=tuple(Query(HOSTILE, HOSTILE) for _ in golds),
        curves=tuple(replace(curve, label=HOSTILE) for curve in full.curves),
        augmentation=replace(
            full.augmentation,
            dropped={HOSTILE: 3},
            teachers=(TeacherPart(HOSTILE, 1, 1, 1, 1, 0.1), TeacherPart(HOSTILE, 1, 1, 1, 1, 0.1)),
            refused=(Refused(HOSTILE, HOSTILE, HOSTILE, HOSTILE),),
            distribution=((HOSTILE, 0.5, 0.5),),
            hidden={HOSTILE: 1},
            audit=HOSTILE,
            failures={HOSTILE: 2},
        ),
        files=tuple(replace(file, name=HOSTILE, precision=HOSTILE) for file in full.files),
        verification=verification(checks=(Check(HOSTILE, 0.1, 0.9),)),
        environment={HOSTILE: HOSTILE},
        provenance={HOSTILE: HOSTILE},
        command=HOSTILE,
        caveats=(HOSTILE,),
    )
    assert shown.all("script") == []
    assert shown.text.count(HOSTILE) > 40
    assert not any(HOSTILE in str(value) and name != "data-label" and name != "aria-label"
                   for _, named in shown.tags for name, value in named.items())  # fmt: skip


def test_the_augmentation_is_told_with_teachers_refusals_and_what_left_the_machine():
    text = page().text
    for said in (
        "big-model at api.example.org/v1",
        figures.count(81_200),
        figures.count(90_300),
        "0.0934",
        "nearly the same as 'it broke'",
        "12 of the kind person",
        "runs/ines/audit.jsonl",
        "fails (status 500)",
        "1: history",
        "1: synthetic",
        figures.percent(0.4),
        "small-encoder==1.0",
        "0.0132 (p = 0.008) of 211 candidates, 0.0055 (p = 0.152) of the 198 kept",
        "0.71 at most, 0.49 in the middle",
        "semantic duplicate",
        "does not act",
        "8 history examples, and 19 are needed",
    ):
        assert said in text, said
    points = [mark["class"] for mark in page().all("circle") if mark["class"].startswith("cloud")]
    assert Counter(points) == {"cloud own": 3, "cloud out": 2, "cloud kept": 2}  # with the legend's
    plain = page(augmentation=Augmentation(4, 4, {}, 4)).text
    assert "Filters by models" not in plain
    assert "Teachers" not in plain
    assert "What was dropped" not in plain


def test_parts_without_data_are_left_out():
    task = TaskFacts("rewrite", "say it my way.", "rouge_l", True)
    bare = Page(render_report(Report("A run with little in it", "bo", task, "2026-03-04")))
    assert bare.all("section") == []
    assert "None" not in bare.text
    for part, nothing in (("verification", None), ("benchmarks", ()), ("augmentation", None)):
        assert "None" not in page(**{part: nothing}).text
    without = page(verification=None, benchmarks=(), files=(), curves=(), augmentation=None, queries=())
    assert {one["id"] for one in without.all("section")} == {"quality", "caveats", "provenance"}


def told(**changes):
    return {verdict.anchor: verdict for verdict in verdicts(report(**changes))}


def test_the_first_screen_answers_the_three_questions():
    made = told()
    assert (made["quality"].answer, made["quality"].tone) == ("Yes", "good")
    assert re.fullmatch(r"\d\.\d{3} → 0\.\d{3}", made["quality"].figures[0][0])
    assert (made["survival"].answer, made["survival"].tone) == ("Yes", "good")
    assert (made["speed"].answer, made["speed"].tone) == ("Valid run", "good")
    assert [unit for _, unit in made["speed"].figures] == ["on disk", "tokens/s"]


def test_a_report_without_a_bundle_says_so_first():
    made = told(withheld="not shipped: it is not better", verification=None, benchmarks=(), files=())
    assert list(made) == ["quality", "caveats"]
    assert (made["caveats"].answer, made["caveats"].tone) == ("No", "bad")
    assert made["caveats"].evidence[0] == "Not shipped: it is not better."
    assert "Is there a bundle?" in page(withheld="not shipped: it is not better").text
    assert "Is there a bundle?" not in page().text


def test_filters_that_dropped_nothing_are_no_bars_and_names_are_words():
    text = page(augmentation=Augmentation(4, 4, {"held_out": 1, "surplus": 0}, 3)).text
    assert "Dropped: held out" in text
    assert "surplus" not in text


def test_an_answer_without_text_is_shown_as_such():
    made, _ = arms()
    assert "(no text)" in page(arms=(replace(made[0], answers=("",) * 40), *made[1:])).text
    assert "(no text)" not in page().text


def test_a_difference_within_chance_is_not_called_an_improvement():
    made, _ = arms()
    same = replace(made[0], name="artifact", role="artifact")
    assert told(arms=(made[0], same))["quality"].answer == "Not shown"
    worse = (replace(made[4], role="base"), replace(made[0], role="artifact"))
    assert told(arms=worse)["quality"].answer == "No, it got worse"
    few = tuple(replace(arm, per_query=arm.per_query[:5], answers=arm.answers[:5]) for arm in made)
    assert told(arms=few)["quality"].tone == "unsure"


def test_higher_is_better_turns_the_judgement():
    task = TaskFacts("lamp-5", "titles", "rouge_l", True)
    low, high = (0.1, 0.2) * 10, (0.3, 0.4) * 10
    base, artifact = (
        Arm("base", "base", {"rouge_l": 0.15}, low),
        Arm("int4", "artifact", {"rouge_l": 0.35}, high),
    )
    assert told(task=task, arms=(base, artifact))["quality"].answer == "Yes"


def test_a_lost_personalisation_is_said_first():
    lost = told(verification=verification(checks=(Check("mean correlation", 0.31, 0.9),)))["survival"]
    assert (lost.answer, lost.tone) == ("No", "bad")
    assert "Outside its threshold: mean correlation." in lost.evidence
    broken = verification(checks=(Check("mean correlation", float("nan"), 0.9),))
    assert told(verification=broken)["survival"].answer == "No"
    assert "✗ failed" in page(verification=broken).text


def test_thresholds_met_with_worse_answers_is_not_a_yes():
    made, _ = arms()
    worse = (*made[:4], replace(made[0], role="artifact"))
    assert told(arms=worse)["survival"].answer == "Only in part"
    against_itself = (*made[:2], replace(made[0], role="adapter"), made[3], replace(made[0], role="artifact"))
    assert told(arms=against_itself, shipped="adapter")["survival"].answer == "Yes"


def test_an_invalid_run_says_why_on_the_first_screen_and_below():
    invalid = result(during={"throttle_flags": 4})
    assert told(benchmarks=(invalid,))["speed"].answer == "Run not valid"
    assert page(benchmarks=(invalid,)).text.count("the firmware reports throttled") == 2


def test_every_raw_sample_is_a_dot():
    made = page()
    rows = [named["aria-labelledby"] for named in made.all("svg") if "strip" in named.get("class", "")]
    assert len(rows) == 6
    strips = sum(named.get("r") == "3" for named in made.all("circle"))
    assert strips == 4 * 5 + 2 * 5 * 64 + 2 * 40


def test_answers_are_marked_against_the_base_model():
    text = page().text
    assert "The first 8 of 40 queries" in text
    assert "▲ better, error 0.00" in text
    right = Arm("int4", "artifact", {"accuracy": 0.5}, (1.0, 0.0), ("yes", "no"))
    marked = page(
        task=TaskFacts("movies", "tags", "accuracy", True),
        arms=(replace(right, name="base", role="base"), right),
        queries=(Query("a", "yes"), Query("b", "yes")),
    ).text
    assert marked.count("✓ right") == marked.count("✗ wrong") == 2


def test_marks_keep_their_query_where_some_have_no_gold_answer():
    queries = (Query("a", ""), Query("b", "yes"), Query("c", "yes"))
    arm = Arm("base", "base", {"accuracy": 0.5}, (1.0, 0.0), ("x", "yes", "no"))
    task = TaskFacts("movies", "tags", "accuracy", True)
    text = page(task=task, arms=(arm,), queries=queries).text
    body = re.sub(r"\s+", " ", text[text.index("Answers side by side") :])
    assert re.search(r"x .*yes yes ✓ right .*yes no ✗ wrong", body)
    assert body.count("✓ right") == body.count("✗ wrong") == 1


def test_an_interval_is_drawn_only_for_a_mean_over_the_queries():
    arm = Arm("base", "base", {"mae": 1.0, "rmse": 1.58}, (0.0, 2.0, 1.0))
    assert arm_interval(arm, "mae").estimate == 1.0
    assert arm_interval(arm, "rmse") is None
    assert arm_interval(replace(arm, per_query=(0.0, float("nan"), 1.0)), "mae") is None


def test_figures_that_are_not_numbers_do_not_break_the_page():
    nan = float("nan")
    broken = Arm("artifact", "artifact", {"mae": nan}, (nan,) * 40, ("",) * 40)
    made, _ = arms()
    text = render_report(
        report(
            arms=(*made[:4], broken),
            verification=verification(correlation_mean=nan, correlations=(nan, 0.9), scatter=((nan, 1.0),)),
        )
    )
    Page(text)
    assert not re.search(r"\bnan\b", text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (figures.number(-0.5, 2, signed=True), "−0.50"),
        (figures.number(0.0001, 2, signed=True), "0.00"),
        (figures.number(None), "–"),
        (figures.number(float("inf")), "–"),
        (figures.significant(1234.5), "1234"),
        (figures.significant(0.01234), "0.0123"),
        (figures.significant(0), "0"),
        (figures.count(1234567), "1\u202f234\u202f567"),
        (figures.percent(0.963, 1), "96.3\u202f%"),
        (figures.size(999), "999\u202fbytes"),
        (figures.size(118_400_000), "118\u202fMB"),
        (figures.quantity(0.0232, "s"), "23.2\u202fms"),
        (figures.quantity(1.5, "s"), "1.50\u202fs"),
        (figures.quantity(42.123, "tokens/s"), "42.1\u202ftokens/s"),
        (figures.metric_name("rouge_l"), "ROUGE-L"),
        (figures.metric_name("my_own"), "my_own"),
    ],
)
def test_numbers_read_well(text, wanted):
    assert text == wanted


def test_scales_have_round_ticks_inside():
    assert Scale(0, 1).ticks() == pytest.approx([0, 0.5, 1.0])
    assert all(3 <= tick <= 17 for tick in Scale(3, 17).ticks())
    assert Scale(2, 2).ticks() == [2]
    assert Scale(0, 10)(5) == "50.00%"
    assert Scale(10, 0)(10) == "0.00%"


def test_plots_stand_degenerate_data():
    for drawn in (
        bar_plot("a", "t", [Bar("zero", 0.0, "0")], "x"),
        bar_plot("b", "t", [Bar("below", -1.0, "−1", low=-2.0, high=0.5)], "x"),
        dot_plot("c", "t", [Dots("same", [2.0, 2.0], "2")], "x"),
        line_plot("d", "t", [("one", [1.0]), ("none", [])], "x"),
        scatter_plot("e", "t", [(1.0, 1.0)], "x", "y"),
    ):
        Page(drawn)
        assert "nan" not in drawn


def test_samples_of_a_short_run_still_make_a_page():
    short = result(repeats=1)
    assert len([s for s in samples(repeats=1) if s["kind"] == "prefill"]) == 2
    assert "Run not valid" in page(benchmarks=(short,)).text


def test_several_devices_have_a_part_each_and_the_emulated_one_no_times():
    board = result()
    phone = result(slow=(1.5,) * 5)
    where = replace(
        phone.environment, device="adb:PHONE", facts={**phone.environment.facts, "emulated": True}
    )
    found = page(benchmarks=(board, replace(phone, environment=where)))
    speed = found.text.partition("Tokenisation and sampling")[2]
    assert "adb:PHONE" in speed
    assert "An emulated device" in speed
    first, _, second = speed.partition("adb:PHONE")
    assert "Time to first token" in first
    assert "Time to first token" not in second
    assert "Peak memory" in second
