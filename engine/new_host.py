"""A host that is to be added: the questions about it, and what the answers lead to.

Answers are texts by question key, as in the wizard; what is not answered has its default. The same
host can be added by `aiok hosts add`; `command_line` tells how.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from engine import clusters, host_jobs
from engine.clusters import WORK_FOLDER, Inventory, Password
from engine.errors import InputError
from engine.host_jobs import HostKey
from engine.questions import Question

FIELDS = ("key", "port", "jump", "work_folder")  # texts of the inventory, by their names there
FLAGS = ("password", "agent")


def questions() -> list[Question]:
    """What to ask, the most needed first; EnvironmentProblem for a bad inventory."""
    known = clusters.inventory()
    rest = known.defaults

    def ask(key: str, label: str, words: str, default: str = "", *offers: str) -> Question:
        kind = "path" if key == "key" else "text"
        return Question(key, "host", label, words, kind, tuple((o, o) for o in offers), default)

    groups, hosts = list(known.clusters), list(known.hosts)
    there = f"; there is {', '.join(groups)}" if groups else ""
    return [
        ask("place", "Address", f"USER@ADDRESS; without USER: {rest.user or 'your name here'}"),
        ask("name", "Name", "how you call it", host_jobs.next_name(known)),
        ask("cluster", "Cluster", f"it joins it; empty: none{there}", "", *groups),
        ask("key", "Key file", f"your private key for it; empty: {rest.key or 'none'}"),
        _flag("password", "Password", "typed when it is needed, never stored", rest.password),
        _flag("agent", "Agent", "whether your ssh-agent may be asked", rest.agent),
        ask("port", "Port", "of its SSH server", str(rest.port)),
        ask("jump", "Through", f"the host before it; empty: {rest.jump or 'none'}", "", *hosts),
        ask("work_folder", "Work folder",
            f"what aiok places lies there; empty: {rest.work_folder or f'~/{WORK_FOLDER}'}"),
    ]  # fmt: skip


def _flag(key: str, label: str, words: str, always: bool) -> Question:
    """Yes or no; where the inventory's defaults say yes there is no other choice."""
    choices = (("yes", "yes, as for all hosts"),) if always else (("no", "no"), ("yes", "yes"))
    return Question(key, "host", label, words, "choice", choices, choices[0][0])


def _said(answers: Mapping[str, str]) -> dict[str, str]:
    """What differs from the defaults."""
    texts = {question.key: (answers.get(question.key, "").strip(), question.default)
             for question in questions()}  # fmt: skip
    return {key: text for key, (text, default) in texts.items() if text not in ("", default)}


def described(answers: Mapping[str, str]) -> tuple[str, Inventory]:
    """The host's name, and the inventory with it; InputError as host_jobs.describe."""
    said = _said(answers)
    name = said.get("name") or host_jobs.next_name(clusters.inventory())
    fields = {key: said[key] for key in FIELDS if key in said}
    flags = {key: True for key in FLAGS if key in said}
    place, cluster = said.get("place", ""), said.get("cluster")
    return name, host_jobs.describe(name, place, {**fields, **flags}, cluster)


def problems(answers: Mapping[str, str]) -> dict[str, str]:
    """What is wrong, by question; empty when the host can be asked for its key."""
    said = _said(answers)
    found: dict[str, str] = {}
    try:
        described(answers)
    except InputError as error:
        parts = error.what.splitlines()[1:]
        if not parts:  # it is about the whole: the name is taken
            return {"name": f"{error.what}: {error.todo}"}
        name = said.get("name") or host_jobs.next_name(clusters.inventory())
        for part in parts:
            key, text = _placed(part.removeprefix("  - "), name, said.get("cluster", ""))
            found.setdefault(key, text)
    if "place" not in said:
        found["place"] = "an address is needed, such as ann@10.0.0.11"
    return found


def _placed(sentence: str, name: str, cluster: str) -> tuple[str, str]:
    """The question that a problem of the inventory belongs to, and the problem."""
    if sentence.startswith(f"hosts.{name}."):
        field, _, text = sentence.removeprefix(f"hosts.{name}.").partition(": ")
        return {"address": "place", "user": "place", "[key]": "name"}.get(field, field), text
    part, _, text = sentence.removeprefix(f"clusters.{cluster}").partition(": ")
    return "name" if part.startswith(".hosts.") else "cluster", text


def command_line(answers: Mapping[str, str]) -> str:
    """The line that does the same without the app."""
    said = _said(answers)
    words = ["aiok", "hosts", "add", said.get("place", "USER@ADDRESS")]
    for key in ("name", "cluster", *FIELDS):
        if key in said:
            words += [f"--{key.replace('_', '-')}", said[key]]
    return shlex.join([*words, *(f"--{key}" for key in FLAGS if key in said)])


def meet(answers: Mapping[str, str], password: Password | None = None) -> HostKey:
    """The key that the host shows, for a person to compare; see host_jobs.show_key."""
    name, new = described(answers)
    return host_jobs.show_key(new, name, password)


def add(answers: Mapping[str, str], key: HostKey) -> str:
    """Pin a key that was compared and write the host into the inventory; its name."""
    name, new = described({**answers, "name": key.entry.name})
    host_jobs.add(new, key)
    return name
