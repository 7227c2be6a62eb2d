"""A host is added by a form, a password typed into a prompt. No host is reached."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Button, Input

from aiok_tui.app import AiokApp
from aiok_tui.screens.confirm import ConfirmScreen
from aiok_tui.screens.hosts import HostsScreen
from aiok_tui.screens.newhost import NewHostScreen
from aiok_tui.screens.password import PasswordScreen
from aiok_tui.screens.problem import ProblemScreen
from aiok_tui.widgets.form import Field
from aiok_tui.widgets.linetable import LineTable
from aiok_tui.widgets.secret import SecretInput
from engine import api
from engine.errors import HostError
from tests.tui.conftest import Stage
from tests.tui.recorded_hosts import FINGERPRINT, KEY

WIDE, NARROW, SMALL = (120, 36), (80, 24), (60, 18)
SECRET = "canary-7Fq"
Make = Callable[..., Stage]

pytestmark = pytest.mark.usefixtures("inventory")


async def press(here: Stage, pilot: Pilot[None], *keys: str) -> None:
    for key in keys:
        await pilot.press(key)
        await here.turn(pilot, 1)


async def until(here: Stage, pilot: Pilot[None], wanted: Callable[[], bool]) -> None:
    """Let threads work until something is so."""
    end = time.monotonic() + 10
    while not wanted():
        assert time.monotonic() < end, here.text()
        await here.turn(pilot, 1)


def problems(here: Stage) -> dict[str, str]:
    """What the form says is wrong, by question."""
    fields = here.app.screen.query(Field)
    return {field.question.key: field._problem for field in fields if field._problem}


# --- the form -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [WIDE, NARROW, SMALL])
async def test_a_host_is_added_by_keyboard_after_its_key_was_compared(
    stage: Make, runs: Path, size: tuple[int, int]
) -> None:
    here = stage()
    home = runs.parent
    async with here.app.run_test(size=size) as pilot:
        await press(here, pilot, "h", "a")
        assert isinstance(here.app.screen, NewHostScreen)
        await press(here, pilot, *"bob@10.0.0.30", "enter", "enter", *"lab", "enter", *"~/k")
        assert "the same by hand:" in here.text()
        line = "aiok hosts add bob@10.0.0.30 --cluster lab --key '~/k'"
        assert here.app.screen.checked is not None and here.app.screen.checked.line == line
        await press(here, pilot, "f4")
        assert here.app.clipboard == line
        await press(here, pilot, "f5")
        assert isinstance(here.app.screen, ConfirmScreen)
        assert here.app.screen.query_one("#no", Button).has_focus
        text = here.text()
        assert "Is this the key of h4?" in text and FINGERPRINT in text
        assert "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub" in text
        assert "h4" not in api.inventory().hosts
        await press(here, pilot, "enter")  # No
        assert isinstance(here.app.screen, NewHostScreen) and "not added" in here.text()
        assert "h4" not in api.inventory().hosts and not (home / "ssh").exists()
        await press(here, pilot, "f5", "y")
        assert isinstance(here.app.screen, HostsScreen)
        assert here.app.screen.query_one(LineTable).cursor == "h4"
        assert here.app.board.rows["h4"].status == "bare"
        await press(here, pilot, "a")
        assert here.app.screen.query(Input).first().value == ""  # the next one begins anew
    entry = api.inventory().entry("h4")
    assert (entry.user, entry.address, entry.port, entry.key) == ("bob", "10.0.0.30", 22, "~/k")
    assert api.inventory().cluster_of("h4") == "lab"
    assert (home / "ssh" / "known_hosts").read_text() == f"10.0.0.30 {KEY}\n"
    assert here.engine.asked[1:] == [("meet", "h4"), ("meet", "h4"), ("check", "h4")]


@pytest.mark.parametrize("size", [NARROW, SMALL])
async def test_every_field_is_reached_and_seen_by_keyboard(
    stage: Make, size: tuple[int, int]
) -> None:
    here = stage()
    async with here.app.run_test(size=size) as pilot:
        await press(here, pilot, "h", "a")
        fields = list(here.app.screen.query(Field))
        form = here.app.screen.query_one("#form").region
        for field in fields:
            assert field.has_focus_within, field.question.key
            assert form.contains_region(field.region), (field.question.key, field.region, form)
            await press(here, pilot, "tab")
        assert here.app.screen.query_one("#go", Button).has_focus
    assert [field.question.key for field in fields] == [
        "place", "name", "cluster", "key", "password", "agent", "port", "jump", "work_folder",
    ]  # fmt: skip


async def test_problems_stand_at_their_fields_and_nothing_is_lost(stage: Make) -> None:
    here = stage()
    wrong = {"place": "bob@", "name": "h1", "cluster": "lab", "port": "22a", "jump": "h9",
             "work_folder": "here"}  # fmt: skip
    async with here.app.run_test(size=WIDE) as pilot:
        await press(here, pilot, "h", "a")
        assert problems(here) == {}  # nobody has said anything yet
        await press(here, pilot, "f5")
        assert problems(here) == {"place": "an address is needed, such as ann@10.0.0.11"}
        for field in here.app.screen.query(Field):
            if field.question.key in wrong:
                field.query_one(Input).value = wrong[field.question.key]
        await here.turn(pilot)
        assert problems(here) == {
            "name": "there is already a host h1: aiok hosts remove h1, or another name"
        }
        named = next(f for f in here.app.screen.query(Field) if f.question.key == "name")
        named.query_one(Input).value = "new host"
        await here.turn(pilot)
        found = problems(here)
        assert set(found) == {"place", "name", "port", "jump", "work_folder"}
        assert found["name"].startswith("is no name: letters, digits, - and _")
        assert found["jump"].startswith("there is no host h9, did you mean")
        assert found["port"].startswith("should be a valid integer")
        assert found["work_folder"].startswith("is no folder")
        await press(here, pilot, "f5")
        assert here.app.screen.query(Field).first().has_focus_within
        await press(here, pilot, "escape", "a")
        assert isinstance(here.app.screen, NewHostScreen)
        kept = {f.question.key: f.value for f in here.app.screen.query(Field)}
        assert {key: kept[key] for key in wrong} == {**wrong, "name": "new host"}
    assert [call[0] for call in here.engine.asked] == ["check"]


async def test_a_cluster_that_is_there_is_offered(stage: Make) -> None:
    here = stage()
    async with here.app.run_test(size=WIDE) as pilot:
        await press(here, pilot, "h", "a", "tab", "tab", "l")
        assert "it joins it; empty: none; there is lab" in here.text()
        field = list(here.app.screen.query(Field))[2].query_one(Input)
        await until(here, pilot, lambda: field._suggestion == "lab")
        await press(here, pilot, "right")
        assert isinstance(here.app.screen, NewHostScreen)
        assert here.app.screen.answers["cluster"] == "lab"


async def test_another_key_than_the_pinned_one_is_a_hard_stop(
    stage: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = stage()

    def changed(*_: object) -> None:
        raise HostError("h4: its host key has changed: not connected",
                        why="pinned SHA256:old, now SHA256:new")  # fmt: skip

    monkeypatch.setattr(here.engine.hosts, "meet_host", changed)
    async with here.app.run_test(size=WIDE) as pilot:
        await press(here, pilot, "h", "a", *"bob@10.0.0.30", "f5")
        assert isinstance(here.app.screen, ProblemScreen)
        assert "pinned SHA256:old, now SHA256:new" in here.text()
        await press(here, pilot, "escape")
        assert isinstance(here.app.screen, NewHostScreen)
        assert here.app.screen.answers["place"] == "bob@10.0.0.30"
    assert "h4" not in api.inventory().hosts


async def test_a_damaged_inventory_is_told(stage: Make, runs: Path) -> None:
    here = stage()
    async with here.app.run_test(size=WIDE) as pilot:
        await press(here, pilot, "h")
        (runs.parent / "inventory.yaml").write_text("hosts: {h1: {adress: x}}\n", encoding="utf-8")
        await press(here, pilot, "a")
        assert isinstance(here.app.screen, ProblemScreen) and "adress" in here.text()
        await press(here, pilot, "escape", "f5", "f4", "escape")
        assert isinstance(here.app.screen, HostsScreen)


# --- passwords ------------------------------------------------------------------------------------


@pytest.fixture
def locked(runs: Path, inventory: None) -> None:
    """Two hosts that want a password, one of them behind the other."""
    (runs.parent / "inventory.yaml").write_text(
        "hosts: {h1: {address: 10.0.0.11, user: ann, password: true},"
        " h2: {address: 10.0.0.12, user: ann, password: true}}\n"
        "clusters: {lab: {hosts: [h1, h2]}}\n",
        encoding="utf-8",
    )


def asks(here: Stage, name: str) -> bool:
    """Whether the password of a host is asked for."""
    screen = here.app.screen
    return isinstance(screen, PasswordScreen) and screen.entry.name == name


@pytest.mark.usefixtures("locked")
@pytest.mark.parametrize("size", [WIDE, NARROW, SMALL])
async def test_passwords_are_typed_one_after_the_other(stage: Make, size: tuple[int, int]) -> None:
    here = stage()
    here.app.jobs.threads = True
    async with here.app.run_test(size=size) as pilot:
        await press(here, pilot, "h")
        await until(here, pilot, lambda: asks(here, "h1"))
        assert "Password of ann on h1" in here.text() and "10.0.0.11 port 22" in here.text()
        await press(here, pilot, "enter", *SECRET)  # nothing typed yet: it stays
        assert SECRET not in here.text() and "•" * len(SECRET) in here.text()
        await press(here, pilot, "enter")
        await until(here, pilot, lambda: asks(here, "h2"))
        await press(here, pilot, "x", "escape")
        await until(here, pilot, lambda: here.app.board.rows["h2"].status == "unreachable")
        await until(here, pilot, lambda: here.app.board.rows["h1"].status == "ready")
        assert "it wants the password of ann and none was typed" in str(here.app.board.rows["h2"])
        for keys in (("u", "y"), ("d", *"lab", "enter")):
            here.engine.hosts.typed.clear()
            await press(here, pilot, *keys)
            for name in ("h1", "h2") * 2:  # the work, and the check after it
                await until(here, pilot, lambda name=name: asks(here, name))
                await press(here, pilot, *f"s{name}", "enter")
            await until(here, pilot, lambda: not any(r.doing for r in here.app.board.rows.values()))
            assert here.engine.hosts.typed == {"h1": "sh1", "h2": "sh2"}


@pytest.mark.usefixtures("locked")
async def test_a_password_on_the_way_to_a_new_host(stage: Make) -> None:
    here = stage()
    async with here.app.run_test(size=WIDE) as pilot:
        here.app.jobs.threads = True
        await press(here, pilot, "h")
        for name in ("h1", "h2"):
            await until(here, pilot, lambda name=name: asks(here, name))
            await press(here, pilot, "escape")
        await until(here, pilot, lambda: isinstance(here.app.screen, HostsScreen))
        await press(here, pilot, "a", *"10.0.0.30")
        jump = next(f for f in here.app.screen.query(Field) if f.question.key == "jump")
        jump.query_one(Input).value = "h1"
        await press(here, pilot, "f5")
        await until(here, pilot, lambda: asks(here, "h1"))
        await press(here, pilot, *SECRET, "enter")
        await until(here, pilot, lambda: isinstance(here.app.screen, ConfirmScreen))
    assert here.engine.hosts.typed["h1"] == SECRET


@pytest.mark.usefixtures("locked")
async def test_the_end_of_the_app_waits_for_no_password(stage: Make) -> None:
    here = stage()
    here.app.jobs.threads = True
    async with here.app.run_test(size=WIDE) as pilot:
        await press(here, pilot, "h")
        await until(here, pilot, lambda: asks(here, "h1"))
    end = time.monotonic() + 10
    while here.engine.hosts.typed != {"h1": None, "h2": None}:  # the thread went on, without
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.usefixtures("locked")
async def test_a_password_is_in_no_message_and_on_no_clipboard(
    stage: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = stage()
    here.app.jobs.threads = True
    said: list[str] = []
    from textual.message_pump import MessagePump

    post = MessagePump.post_message

    def listen(pump: MessagePump, message: object) -> bool:
        taken = post(pump, message)  # type: ignore[arg-type]
        if taken:
            said.append(f"{message!r} {vars(message)!r}")
        return taken

    monkeypatch.setattr(MessagePump, "post_message", listen)
    async with here.app.run_test(size=WIDE) as pilot:
        await press(here, pilot, "h")
        await until(here, pilot, lambda: asks(here, "h1"))
        await press(here, pilot, *SECRET, "ctrl+shift+a")
        field = here.app.screen.query_one(SecretInput)
        assert field.selected_text == SECRET
        await press(here, pilot, "ctrl+x", "super+c")
        assert here.app.clipboard == "" and field.value == SECRET
        screen = here.app.screen
        await press(here, pilot, "enter")
        await until(here, pilot, lambda: asks(here, "h2"))
        assert field.value == ""
        assert SECRET not in repr([screen, vars(screen), here.app.passwords, field])
        await press(here, pilot, "escape")
        await until(here, pilot, lambda: here.app.board.rows["h2"].status == "unreachable")
    assert here.engine.hosts.typed["h1"] == SECRET
    assert len(said) > 100 and not [words for words in said if SECRET in words]
    assert any("Finished" in words for words in said)  # it listens to what it should


def test_an_app_that_is_not_there_asks_nobody() -> None:
    app = AiokApp(background=False)
    app.passwords.close()
    entry = api.inventory().entry("h1")
    assert app.passwords(entry) is None
