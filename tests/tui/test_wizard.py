"""The wizard: questions and their problems are the engine's, the answers the user's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from textual.geometry import Size
from textual.pilot import Pilot
from textual.widgets import Button, Input

from aiok_tui.screens.review import ReviewScreen
from aiok_tui.screens.run import RunScreen
from aiok_tui.screens.wizard import WizardScreen
from aiok_tui.widgets.form import Field
from aiok_tui.widgets.paint import Paragraph
from engine import api, preflight, store
from engine.errors import EnvironmentProblem
from tests.tui.conftest import VALUES, Stage
from tests.tui.recorded_hosts import READY, report

WIDE, NARROW = (120, 36), (80, 24)
Make = Callable[..., Stage]


async def press(here: Stage, pilot: Pilot[None], *keys: str) -> None:
    for key in keys:
        await pilot.press(key)
        await here.turn(pilot, 1)


def wizard(here: Stage) -> WizardScreen:
    assert isinstance(here.app.screen, WizardScreen)
    return here.app.screen


async def type_into(here: Stage, pilot: Pilot[None], key: str, text: str) -> None:
    """Fill the text field of a question."""
    field = next(f for f in here.app.screen.query(Field) if f.question.key == key)
    field.query_one(Input).value = text
    await here.turn(pilot)


@pytest.mark.parametrize("size", [WIDE, NARROW, (60, 18)])
async def test_from_the_first_question_to_the_run(stage: Make, size: tuple[int, int]) -> None:
    here = stage()
    async with here.app.run_test(size=size) as pilot:
        await here.turn(pilot)
        await press(here, pilot, "n")
        for step in api.wizard_steps():
            assert wizard(here).steps[wizard(here).step] == step
            shown = [f.question.key for f in here.app.screen.query(Field)]
            assert shown == [q.key for q in api.questions({}) if q.step == step]
            await press(here, pilot, "f3")
        assert isinstance(here.app.screen, ReviewScreen)
        assert here.app.screen.query_one("#go", Button).has_focus
        await press(here, pilot, "enter")
        assert isinstance(here.app.screen, RunScreen)
        assert here.app.screen.run_id == "live-1"
        await press(here, pilot, "escape")
        assert not isinstance(here.app.screen, WizardScreen)
    plan, start = here.engine.asked
    assert plan == ("plan", "my-job.yaml")
    assert yaml.safe_load(start[1]) == yaml.safe_load(api.recipe_text({}))
    assert api.load_draft() == {}


async def test_an_answer_changes_the_questions_and_is_kept(stage: Make) -> None:
    here = stage()
    async with here.app.run_test(size=WIDE) as pilot:
        await here.turn(pilot)
        await press(here, pilot, "n", "down")
        assert [f.question.key for f in here.app.screen.query(Field)] == [
            "source", "dataset.path", "dataset.format",
        ]  # fmt: skip
        assert api.load_draft() == {"source": "path"}
        assert "a path is needed" in here.text()
        assert "1 problem" in here.text()
        await press(here, pilot, "escape", "n")
        assert wizard(here).answers == {"source": "path"}
        assert "a path is needed" in here.text()
        await press(here, pilot, "ctrl+n")
        assert wizard(here).answers == {} and api.load_draft() == {}


async def test_the_focus_stays_when_the_form_is_made_anew(stage: Make) -> None:
    here = stage()
    async with here.app.run_test(size=WIDE) as pilot:
        await here.turn(pilot)
        await press(here, pilot, "n", "down")
        focused = [f.question.key for f in here.app.screen.query(Field) if f.has_focus_within]
        assert focused == ["source"]
        await press(here, pilot, "up")
        assert wizard(here).answers == {}


async def test_a_change_makes_later_steps_stale(stage: Make) -> None:
    here = stage()
    async with here.app.run_test(size=WIDE) as pilot:
        await here.turn(pilot)
        await press(here, pilot, "n", "f3", "f3", "f2", "f2")
        assert "look again" not in here.text()
        await type_into(here, pilot, "dataset.generate.rows", "5000")
        assert wizard(here).stale == {1, 2}
        assert here.text().count("look again") == 2
        await press(here, pilot, "f3")
        assert wizard(here).stale == {2}


async def test_a_default_that_follows_another_answer(stage: Make) -> None:
    """The tiny profile has other settings; what the user said himself stays."""
    here = stage(**{"model.settings.epochs": "3"})
    async with here.app.run_test(size=WIDE) as pilot:
        await here.turn(pilot)
        await press(here, pilot, "n", "f3", "tab", "down", "down")
        answers = wizard(here).answers
        assert answers["model.profile"] == "tiny"
        values = {f.question.key: f.value for f in here.app.screen.query(Field)}
        wanted = {q.key: q.default for q in api.questions({"model.profile": "tiny"})}
        assert values["model.settings.epochs"] == "3"
        for key, value in values.items():
            if key.startswith("model.settings.") and key != "model.settings.epochs":
                assert value == wanted[key], key


async def test_labels_take_the_width_there_is_at_once() -> None:
    """No event has to arrive before a label is wrapped to its place."""
    shown = Paragraph()
    shown.say("word " * 30 + "end", "dim", strong=4)
    assert [len(shown.lines_at(width)) for width in (200, 100, 20)] == [1, 2, 8]
    assert shown.lines_at(200)[0][0] == ("word", "strong")
    assert shown.get_content_height(Size(100, 1), Size(100, 1), 100) == 2
    shown.say("")
    assert shown.lines_at(20) == []


@pytest.mark.parametrize("size", [WIDE, NARROW])
async def test_a_reopened_draft_has_its_labels_on_one_line(
    stage: Make, size: tuple[int, int]
) -> None:
    here = stage(**{"model.settings.epochs": "3"})
    async with here.app.run_test(size=size) as pilot:
        await here.turn(pilot)
        await press(here, pilot, "n", "f3")
        for field in here.app.screen.query(Field):
            label = field.query_one(".label")
            words = len(field.question.label) + 2 + len(field.question.help)
            assert label.size.height == (1 if words <= label.size.width else 2)


@pytest.mark.parametrize("size", [WIDE, NARROW])
async def test_the_review_leaves_gaps_and_shows_the_whole_line(
    stage: Make, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "aiok run " + "/a-long-folder-name" * 6 + "/recipes/my-job.yaml"
    here = stage()
    monkeypatch.setattr(here.engine, "command_line", lambda _: line, raising=False)
    async with here.app.run_test(size=size) as pilot:
        await here.turn(pilot)
        await press(here, pilot, "n", "f10")
        text = here.text()
        assert line.replace(" ", "") in "".join(part.replace("Launch", "") for part in text.split())
        for value in VALUES:
            assert f"{value.key} " in text


async def test_launching_before_the_plan_is_there_says_so(
    stage: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = stage()
    said: list[str] = []
    async with here.app.run_test(size=WIDE) as pilot:
        await here.turn(pilot)
        await press(here, pilot, "n", "f10")
        screen = here.app.screen
        assert isinstance(screen, ReviewScreen)
        monkeypatch.setattr(here.app, "say", lambda text, **_: said.append(text))
        screen.reviewed = None
        screen.action_launch()
    assert said == ["still planning: one moment"]
    assert [what for what, *_ in here.engine.asked] == ["plan"]


async def test_problems_close_the_launch_and_say_why(stage: Make) -> None:
    here = stage(source="path", **{"dataset.path": "/no/such/file"})
    async with here.app.run_test(size=WIDE) as pilot:
        await here.turn(pilot)
        await press(here, pilot, "n", "f10")
        assert isinstance(here.app.screen, ReviewScreen)
        text = here.text()
        assert "/no/such/file" in text and "Launch is closed" in text
        assert here.app.screen.query_one("#go", Button).disabled
        await press(here, pilot, "f5", "f2")
        assert wizard(here).steps[wizard(here).step] == "dataset"
    assert here.engine.asked == []


async def test_the_plans_problems_close_the_launch(stage: Make) -> None:
    here = stage()
    here.engine.problems = ("the disk is too small: 1 of 3 GiB free",)
    async with here.app.run_test(size=NARROW) as pilot:
        await here.turn(pilot)
        await press(here, pilot, "n", "f10", "f5")
        assert "the disk is too small" in here.text()
    assert [what for what, *_ in here.engine.asked] == ["plan"]


async def test_a_plan_that_cannot_be_made_is_told(
    stage: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(recipe: str) -> None:
        raise EnvironmentProblem("no CPU build of torch", todo="point pip at one")

    here = stage()
    monkeypatch.setattr(here.engine, "plan", refuse)
    async with here.app.run_test(size=WIDE) as pilot:
        await here.turn(pilot)
        await press(here, pilot, "n", "f10")
        assert "no CPU build of torch" in here.text() and "point pip at one" in here.text()
        assert here.app.screen.query_one("#go", Button).disabled


async def test_a_start_that_fails_leaves_the_review_and_the_draft(
    stage: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(recipe: str) -> str:
        raise EnvironmentProblem("cannot write", todo="free some space")

    here = stage(**{"dataset.generate.rows": "5000"})
    monkeypatch.setattr(here.engine, "start", refuse)
    async with here.app.run_test(size=WIDE) as pilot:
        await here.turn(pilot)
        await press(here, pilot, "n", "f10", "enter")
        assert "free some space" in here.text()
        await press(here, pilot, "escape")
        assert isinstance(here.app.screen, ReviewScreen)
        assert not here.app.screen.query_one("#go", Button).disabled
    assert api.load_draft() == {"dataset.generate.rows": "5000"}


async def test_the_equal_command_line_and_absolute_paths(
    stage: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clicks.txt").write_text("0" + "\t" * 39 + "\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    here = stage(source="path", name="mine", **{"dataset.path": "clicks.txt"})
    async with here.app.run_test(size=WIDE) as pilot:
        await here.turn(pilot)
        await press(here, pilot, "n", "f10", "y")
        line = here.app.clipboard
        await press(here, pilot, "f5")
    assert line.startswith("aiok run ") and line.endswith("/recipes/mine.yaml")
    written = yaml.safe_load(Path(line.removeprefix("aiok run ")).read_text(encoding="utf-8"))
    assert written["dataset"]["path"] == str(tmp_path / "clicks.txt")


async def test_the_clusters_of_the_inventory_are_offered_and_looked_at(
    stage: Make, inventory: None
) -> None:
    here = stage()
    async with here.app.run_test(size=WIDE) as pilot:
        await here.turn(pilot)
        await press(here, pilot, "n", "f3", "f3")
        assert here.engine.asked == []  # this machine is no host to look at
        await press(here, pilot, "down")
        await here.turn(pilot)
        assert wizard(here).answers == {"cluster": "lab"}
        assert here.engine.asked == [("check", "h1", "h2", "h3")]
        text = here.text()
        facts = "4 cores  15.6 GiB  disk 96 GiB  python 3.11.2  4 ms"
        assert f"OK   h1            ready       {facts}" in text
        assert "! 0.20 GiB free in /home/ann" in text and "why  timed out after 10 s" in text
        assert "5 ranks: 4 on h1 (1 thread each), 1 on h2 (4 threads each)" in text
        assert "2 problems in this step" in text and "f4 looks again" in text
        await type_into(here, pilot, "train.ranks", "2")
        assert "2 ranks: 1 on h1 (4 threads each), 1 on h2 (4 threads each)" in here.text()
        await press(here, pilot, "f3")  # problems block the launch, not the way
        assert wizard(here).steps[wizard(here).step] == "goal"
        here.engine.hosts.reports |= {name: report(name, READY) for name in ("h2", "h3")}
        await press(here, pilot, "f2", "f4")
        assert here.text().count("OK   h") == 3 and "problem" not in here.text()
        await press(here, pilot, "down")
        await here.turn(pilot)
        assert "OK   spare         half-made" in here.text()


async def test_hosts_with_problems_close_the_launch(
    stage: Make, inventory: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's own plan refuses, whatever the wizard has seen."""
    here = stage(cluster="lab")
    reports = [*here.engine.hosts.reports.values()][:2]
    monkeypatch.setattr(preflight, "check", lambda names: reports)
    monkeypatch.setattr(here.engine, "plan", api.plan)
    async with here.app.run_test(size=WIDE) as pilot:
        await here.turn(pilot)
        await press(here, pilot, "n", "f10", "f5")
        assert "h2: 0.20 GiB free in /home/ann" in here.text()
        assert "Launch is closed" in here.text()
        assert here.app.screen.query_one("#go", Button).disabled
        await press(here, pilot, "f2")
        assert wizard(here).steps[wizard(here).step] == "cluster"


def test_a_damaged_inventory_takes_away_no_more_than_the_choice(aiok_home: Path) -> None:
    aiok_home.mkdir()
    (aiok_home / "inventory.yaml").write_text("hosts: {h1: {adress: x}}\n", encoding="utf-8")
    asked = next(q for q in api.questions({}) if q.key == "cluster")
    assert asked.choices == (("localhost", "this machine"),) and "adress" in asked.help
    assert api.check_answers({}) == {}
    assert "not one of the choices" in api.check_answers({"cluster": "lab"})["cluster"]


def test_a_registered_program_is_a_model_like_the_others(program: Path) -> None:
    asked = {q.key: q for q in api.questions({})}
    assert asked["model.name"].choices[-1] == ("churn-gbt", "Churn: boosted trees")
    assert asked["model.name"].default == "dlrm"
    answers = {"model.name": "churn-gbt", "model.profile": "tiny"}
    asked = {q.key: q for q in api.questions(answers)}
    assert list(asked) == [
        "source", "model.name", "model.settings.depth", "cluster", "search", "name",
    ]  # fmt: skip
    assert asked["source"].choices[0] == ("generate", "none: the program reads its own")
    assert asked["model.settings.depth"].default == "5"
    assert api.check_answers(answers) == {}
    assert yaml.safe_load(api.recipe_text(answers)) == {
        "cluster": "localhost", "model": {"name": "churn-gbt"},
    }  # fmt: skip
    mine = {**answers, "source": "path", "dataset.path": str(program)}
    assert api.check_answers(mine) == {}
    assert yaml.safe_load(api.recipe_text(mine))["dataset"] == {"path": str(program)}
    nowhere = {**mine, "dataset.path": f"{program}.not"}
    assert "there is no file or folder" in api.check_answers(nowhere)["dataset.path"]


def test_a_damaged_program_takes_away_no_more_than_the_choice(program: Path) -> None:
    kept = store.home() / "programs" / "churn-gbt.yaml"
    kept.write_text("file: 7\n")
    asked = {q.key: q for q in api.questions({"model.name": "churn-gbt"})}
    assert "churn-gbt" not in dict(asked["model.name"].choices)
    assert "churn-gbt.yaml is damaged" in asked["model.name"].help
    assert "not one of the choices" in api.check_answers({"model.name": "churn-gbt"})["model.name"]


def test_a_search_is_asked_for_and_its_budget_left_to_the_advisor(aiok_home: Path) -> None:
    keys = [q.key for q in api.questions({})]
    assert "search" in keys and "search.trials" not in keys
    assert "search" not in yaml.safe_load(api.recipe_text({}))
    answers = {"search": "yes"}
    assert {"search.trials", "search.minutes"} <= {q.key for q in api.questions(answers)}
    assert yaml.safe_load(api.recipe_text(answers))["search"] == {}
    assert api.check_answers(answers) == {}
    budget = {**answers, "search.trials": "12", "search.minutes": "30"}
    assert yaml.safe_load(api.recipe_text(budget))["search"] == {"trials": 12, "minutes": 30.0}
    wrong = api.check_answers({**answers, "search.trials": "0"})
    assert list(wrong) == ["search.trials"]
