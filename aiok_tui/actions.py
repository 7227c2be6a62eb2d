"""ONE list of what a user can do in the app.

Footer, palette, help, key bindings and the parity test with the command line come from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from textual.binding import Binding


class Confirm(IntEnum):
    """What is asked before an action is done."""

    NONE = 0
    YES_NO = 1  # with the focus on No
    NAME = 2  # the name must be typed


@dataclass(frozen=True)
class Action:
    """One action. `verb` is the command line's equal, "" for moving about in the app."""

    id: str
    keys: str
    label: str
    help: str
    screens: tuple[str, ...]
    verb: str = ""
    confirm: Confirm = Confirm.NONE
    footer: bool = True


HOME, RUN, WIZARD, REVIEW, HOSTS = "home", "run", "wizard", "review", "hosts"
NEW_HOST = "new host"
SCREENS = (HOME, RUN, WIZARD, REVIEW, HOSTS, NEW_HOST)
_RUNS = (HOME, RUN)
_FORM = (WIZARD, REVIEW)
_TYPING = (*_FORM, NEW_HOST)
ACTIONS = (
    Action("new_run", "n", "New run", "answer a few questions and start a run", (HOME,), "new"),
    Action("open_run", "enter", "Open", "watch the run under the cursor", (HOME,), "show"),
    Action("filter_runs", "slash", "Filter", "show only the runs whose line holds a text", (HOME,),
           "runs"),
    Action("stop_run", "s", "Stop", "save a checkpoint and end; a second time: end at once", _RUNS,
           "stop", Confirm.YES_NO),
    Action("kill_run", "K", "Kill", "end the run at once, without a checkpoint", _RUNS,
           "stop --kill", Confirm.YES_NO, footer=False),
    Action("resume_run", "r", "Resume", "go on with a stopped, failed or lost run", _RUNS,
           "resume"),
    Action("open_report", "o", "Report", "say where the report lies and copy its path", _RUNS,
           "report"),
    Action("open_hosts", "h", "Hosts", "see the machines that work runs on", (HOME,), "hosts list"),
    Action("new_host", "a", "Add", "add a host: say where it is, compare its key", (HOSTS,),
           "hosts add", Confirm.YES_NO),
    Action("add_host", "f5", "Add", "see the key of the host, compare it, add the host",
           (NEW_HOST,), "hosts add", Confirm.YES_NO),
    Action("check_host", "c", "Check", "look what keeps the host under the cursor from working",
           (HOSTS,), "hosts check"),
    Action("check_hosts", "C", "Check all", "look at all hosts", (HOSTS,), "hosts check"),
    Action("check_hosts", "f4", "Check hosts", "look at the hosts of the cluster again", (WIZARD,),
           "hosts check"),
    Action("hosts_up", "u", "Up", "make the cluster of the host ready", (HOSTS,), "hosts up",
           Confirm.YES_NO),
    Action("hosts_down", "d", "Down", "take everything of aiok off the cluster of the host",
           (HOSTS,), "hosts down", Confirm.NAME),
    Action("remove_host", "x", "Remove", "forget the host and its pinned key", (HOSTS,),
           "hosts remove", Confirm.YES_NO),
    Action("find_in_log", "slash", "Find", "search the log", (RUN,), "logs"),
    Action("next_hit", "n", "Next hit", "go to the next place found", (RUN,), footer=False),
    Action("last_hit", "N", "Last hit", "go to the place found before", (RUN,), footer=False),
    Action("follow_log", "f", "Follow", "keep the newest line of the log in sight", (RUN,),
           "logs -f"),
    Action("next_log", "right_square_bracket", "Next log", "show the next log file", (RUN,),
           footer=False),
    Action("last_log", "left_square_bracket", "Last log", "show the log file before", (RUN,),
           footer=False),
    Action("next_metric", "m", "Metric", "draw the next metric", (RUN,)),
    Action("show_trials", "t", "Trials", "see the trials of a search", (RUN,), "trials",
           footer=False),
    Action("zoom", "z", "Zoom", "give the whole window to one panel, and back", (RUN, HOSTS)),
    Action("pane(1)", "1", "Steps", "go to the steps", (RUN,), footer=False),
    Action("pane(2)", "2", "Chart", "go to the chart", (RUN,), footer=False),
    Action("pane(3)", "3", "Machine", "go to the use of the machine", (RUN,), footer=False),
    Action("pane(4)", "4", "Log", "go to the log", (RUN,), footer=False),
    Action("copy_line", "y", "Copy", "copy the equal command line", (RUN, REVIEW, HOSTS)),
    Action("copy_line", "f4", "Copy", "copy the equal command line", (NEW_HOST,)),
    Action("step_back", "f2", "Back", "go to the step before", _FORM),
    Action("step_on", "f3", "Next", "go to the next step", (WIZARD,)),
    Action("review", "f10", "Review", "see the plan before it runs", (WIZARD,), "plan"),
    Action("launch", "f5", "Launch", "write the recipe and start the run", (REVIEW,), "run"),
    Action("new_draft", "ctrl+n", "Anew", "forget all answers and begin again", (WIZARD,),
           footer=False),
    Action("leave", "escape", "Leave", "go back to the list of runs; nothing is lost",
           (RUN, WIZARD, REVIEW, HOSTS)),
    Action("leave", "escape", "Leave", "go back to the hosts; the form keeps what it holds",
           (NEW_HOST,)),
    Action("palette", "ctrl+p", "Palette", "choose any of these by name", SCREENS, footer=False),
    Action("close", "q", "Close", "close the app; runs go on without it", (*_RUNS, HOSTS)),
    Action("show_help", "question_mark", "Help", "what can be done here", (*_RUNS, HOSTS)),
    Action("show_help", "f1", "Help", "what can be done here", _TYPING),
)  # fmt: skip

_NAMES = {"slash": "/", "question_mark": "?", "left_square_bracket": "[", "escape": "esc",
          "right_square_bracket": "]"}  # fmt: skip


def actions_of(screen: str) -> list[Action]:
    """What can be done on a screen, in the order of the footer."""
    return [action for action in ACTIONS if screen in action.screens]


def key_name(keys: str) -> str:
    """A key as people write it."""
    first = keys.split(",")[0]
    return _NAMES.get(first, first)


def binding_id(screen: str, action: Action) -> str:
    """The name under which a keymap can put an action on another key."""
    return f"{screen}.{action.id.replace('(', '-').rstrip(')')}"


def bindings(screen: str) -> list[Binding]:
    """The keys of a screen."""
    return [
        Binding(action.keys, action.id, action.label, id=binding_id(screen, action), show=False)
        for action in actions_of(screen)
    ]


def hints(screen: str) -> list[tuple[str, str]]:
    """(key, label) for the footer."""
    return [(key_name(a.keys), a.label) for a in actions_of(screen) if a.footer]


def keymap_problems(keymap: Mapping[str, str]) -> list[str]:
    """What is wrong with a keymap {binding id: key}: unknown ids, and one key for two actions."""
    problems = []
    known = {binding_id(s, a) for a in ACTIONS for s in a.screens}
    problems += [f"{name}: there is no such action" for name in keymap if name not in known]
    for screen in SCREENS:
        taken: dict[str, str] = {}
        for action in actions_of(screen):
            name = binding_id(screen, action)
            for key in keymap.get(name, action.keys).split(","):
                if key in taken:
                    problems.append(f"{screen}: {key} stands for {taken[key]} and {action.label}")
                taken[key] = action.label
    return problems
