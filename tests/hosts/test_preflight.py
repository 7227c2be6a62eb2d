"""The checks of a host, on real hosts: each finds what it is for, and leaves nothing behind."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath

import pytest

from hosts import preflight
from hosts.fake import FakeTransport
from hosts.local import LocalTransport
from hosts.preflight import Finding
from hosts.probe import HostFacts, probe
from hosts.site import Site
from hosts.testbed import Testbed
from hosts.transport import Completed, HostProblem
from tests.testbed import Testbeds, entry_of, ssh_to

HOME = "/home/aiok"
PYTHON = "/usr/bin/python3"


@pytest.fixture
def site(testbeds: Testbeds) -> Iterator[Site]:
    """A host of the testbed with 64 MiB of disk that these tests may change."""
    testbed = testbeds(2, purpose="preflight", disk_mib={"h1": 64})
    with ssh_to(testbed, "h1") as transport:
        yield Site(name="h1", transport=transport, home=PurePosixPath(HOME, "aiok"),
                   python=PYTHON, address=testbed.layout.address("h1"))  # fmt: skip


@pytest.fixture
def testbed(testbeds: Testbeds) -> Testbed:
    return testbeds(2, purpose="preflight", disk_mib={"h1": 64})


def problems(found: list[Finding]) -> list[str]:
    return [finding.what for finding in found if finding.level == "problem"]


def place(site: Site, folder: str, need_gib: float = 0.01, shared: str | None = None) -> list[str]:
    return problems(preflight.place(site.transport, PurePosixPath(folder), need_gib, shared))


def test_a_folder_that_is_not_the_same_everywhere_is_found(testbeds: Testbeds) -> None:
    testbed = testbeds(3, purpose="one folder", shared=True)
    folder = PurePosixPath(HOME, "aiok")
    sites = [
        Site(name=name, transport=ssh_to(testbed, name), home=folder, python=PYTHON,
             address=testbed.layout.address(name))
        for name in ("h1", "h2", "h3")
    ]  # fmt: skip
    try:
        assert preflight.one_folder(sites, "/shared") == []
        blind = preflight.one_folder(sites, "/tmp")
        assert [(problem.host, problem.what) for problem in blind] == [
            (name, "/tmp is not the folder that h1 has there") for name in ("h2", "h3")
        ]
        for site in sites:
            left = site.transport.run(["ls", "-A", "/shared", "/tmp"]).stdout
            assert ".aiok-probe" not in left
    finally:
        for site in sites:
            site.transport.close()


def test_rights_of_the_work_folder(site: Site, testbed: Testbed) -> None:
    before = testbed.listing("h1")
    assert place(site, f"{HOME}/aiok") == []
    assert place(site, "/etc/aiok/deep") == ["/etc is not writable"]
    assert place(site, f"{HOME}/.ssh/authorized_keys/aiok") == [
        f"{HOME}/.ssh/authorized_keys is a file, not a folder"
    ]
    assert place(site, f"{HOME}/aiok", shared="/shared") == [
        "the shared folder /shared is not there, or not writable"
    ]
    assert place(site, f"{HOME}/aiok", shared="/dev/shm") == []
    assert testbed.listing("h1") == before


def test_space_and_noexec_of_the_work_folder(site: Site, testbed: Testbed) -> None:
    found = preflight.place(site.transport, PurePosixPath(HOME, "aiok"), 1.5, None)
    assert [finding.level for finding in found] == ["problem"]
    assert found[0].what == f"0.06 GiB free in {HOME}, aiok needs about 1.50"
    assert "work_folder" in found[0].todo
    for options, said in (("noexec", ["nothing can be run in /mnt"]), ("exec", [])):
        made = testbed.run_as_root(
            "h1", ["mount", "-t", "tmpfs", "-o", f"mode=1777,{options}", "none", "/mnt"]
        )
        assert made.returncode == 0, made.stderr
        assert place(site, "/mnt/aiok") == said
        testbed.run_as_root("h1", ["umount", "/mnt"])


def test_authorized_keys_must_be_writable(site: Site, testbed: Testbed) -> None:
    keys = f"{HOME}/.ssh/authorized_keys"
    for mode, said in (("444", [f"{keys} is not writable"]), ("600", [])):
        assert testbed.run_as_root("h1", ["chmod", mode, keys]).returncode == 0
        assert place(site, f"{HOME}/aiok") == said


@pytest.mark.parametrize(
    ("off_s", "level", "said"),
    [
        (0.0, None, ""),
        (-1.5, None, ""),
        (7.0, "note", "its clock is 7 s ahead of this machine's"),
        (-59.0, "note", "its clock is 59 s behind this machine's"),
        (-3600.0, "problem", "its clock is 3600 s behind this machine's"),
        (61.0, "problem", "its clock is 61 s ahead of this machine's"),
    ],
)
def test_the_clock_is_compared_with_this_machine(
    off_s: float, level: str | None, said: str
) -> None:
    fake = FakeTransport()
    fake.answer("date", lambda _argv, _stdin: Completed(0, f"{time.time() + off_s:.9f}\n", ""))
    found = preflight.clock(fake)
    assert [(finding.level, finding.what) for finding in found] == (
        [(level, said)] if level else []
    )


def test_a_clock_without_fractions_is_no_lie() -> None:
    fake = FakeTransport()
    fake.answer("date", lambda _argv, _stdin: Completed(0, f"{int(time.time())}.N\n", ""))
    assert preflight.clock(fake) == []


@pytest.fixture(scope="module")
def facts() -> HostFacts:
    found = probe(LocalTransport(), shutil.which("python3") or "python3", "/")
    return replace(found, memory_gib=23.5, load1=0.1, java="openjdk 17", numa=[[0, 1]],
                   cores=[0, 1], physical_cores=2, isa=["avx2", "avx512f", "amx_bf16"])  # fmt: skip


def test_machines_are_told_in_a_line_each(facts: HostFacts) -> None:
    model = facts.cpu_model
    assert [f.what for f in preflight.machine(facts)] == [
        f"{model}, 2 cores, avx2, avx512f, amx_bf16", "23.5 GiB memory", "openjdk 17",
    ]  # fmt: skip
    poor = replace(facts, memory_gib=1.9, isa=[], java="", load1=9.0, numa=[[0], [1]])
    assert [(f.level, f.what) for f in preflight.machine(poor)] == [
        ("ok", f"{model}, 2 cores, 2 NUMA nodes, no AVX2"),
        ("problem", "1.9 GiB memory"),
        ("note", "no AMX or AVX512-BF16: training runs in fp32"),
        ("note", "no Java: Apache Spark would get a runtime made from a JDK here"),
        ("note", "load 9.0 on 2 cores"),
    ]


def test_the_way_to_others_is_not_loopback(site: Site, testbed: Testbed) -> None:
    other, own = entry_of(testbed, "h2"), site.address
    found = preflight.ways(site, [other], None)
    assert [(f.level, f.what) for f in found] == [("ok", f"reaches h2 by eth0 from {own}")]
    by_name = preflight.ways(replace(site, address="h1"), [other], None)
    assert problems(by_name) == ["its own address h1 means 127.0.1.1 on itself"]
    assert "cluster_address" in by_name[0].todo
    assert problems(preflight.ways(site, [other], "ib9")) == ["it has no network interface ib9"]
    assert problems(preflight.ways(site, [other], "eth0")) == []


def test_ways_that_are_closed_say_why(site: Site, testbed: Testbed) -> None:
    found = preflight.ways(
        site,
        [
            entry_of(testbed, "h2", port=2299),
            entry_of(testbed, "h2").model_copy(
                update={"name": "far", "cluster_address": "192.0.2.7"}
            ),
        ],
        None,
    )
    assert [(f.what, f.why) for f in found] == [
        (f"it cannot reach h2 at {testbed.layout.address('h2')} port 2299", "Connection refused"),
        ("it cannot reach far at 192.0.2.7 port 22", "Network is unreachable"),
    ]


def test_one_work_folder_for_all() -> None:
    assert preflight.same_folder({"h1": "/a", "h2": "/a"}) == []
    (problem,) = preflight.same_folder({"h1": "/a", "h2": "/b", "h3": "/a"})
    assert str(problem) == "h2: its work folder is /b, that of h1 is /a"


def test_findings_become_problems_of_their_host(facts: HostFacts) -> None:
    report = preflight.HostReport(
        host="h1", facts=facts,
        findings=[Finding("ok", "a"), Finding("problem", "b", "do b", "why b")],
    )  # fmt: skip
    (problem,) = report.problems
    assert (problem.host, problem.what, problem.why, problem.todo) == ("h1", "b", "why b", "do b")


def test_checks_write_nothing(site: Site, testbed: Testbed) -> None:
    before = testbed.listing("h1")
    preflight.place(site.transport, site.home, 0.01, None)
    preflight.clock(site.transport)
    preflight.ways(site, [entry_of(testbed, "h2")], None)
    probe(site.transport, site.python, str(site.home))
    assert testbed.listing("h1") == before


def test_what_a_host_says_is_no_order_to_a_terminal(facts: HostFacts) -> None:
    fake = FakeTransport()
    told = {**vars(facts), "cpu_model": "evil\x1b[2J", "java": "\x9b1mbold"}
    fake.answer("python3", Completed(0, json.dumps(told), ""))
    seen = probe(fake, "python3", "/")
    assert (seen.cpu_model, seen.java) == ("evil[2J", "1mbold")
    fake.answer("df", Completed(0, "there /a\x1bb\nfolder yes\nshm 1\n", ""))
    assert [f.what for f in preflight.place(fake, PurePosixPath("/a"), 1, None)] == [
        "/ab is not writable"
    ]
    problem = preflight.told(HostProblem("h1", "what\x07", "why\x1b]0;title\x07", "todo\x00"))
    assert (problem.what, problem.why, problem.todo) == ("what", "why]0;title", "todo")
