"""`make setup` takes an interpreter that will do, fetches one, or says what to install."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from ensemble.contract import distribution
from support.machine import RELEASES, Machine

LEFT_OUT = "(g++ may be left out: it makes speech on a CPU five times faster)"


@pytest.mark.parametrize(
    ("release", "packages"),
    [
        ("debian 12", "python3-venv libpython3.11"),
        ("debian 13", "python3-venv"),
        ("ubuntu 22.04", "python3-venv"),
        ("ubuntu 24.04", "python3-venv python3.12-dev"),
        ("ubuntu 26.04", "python3-venv"),
    ],
)
def test_a_bare_machine_is_told_everything_at_once(tmp_path, release, packages) -> None:
    machine = Machine(tmp_path, release)
    machine.tool("apt-get")
    code, said, asked = machine.setup()
    assert (code, asked) == (1, [])
    assert said == (
        f"setup: no Python here; as root: apt-get install -y {packages} g++ {LEFT_OUT}\n"
    )


def test_a_bare_machine_without_apt_is_told_in_words(tmp_path) -> None:
    code, said, _ = Machine(tmp_path, "fedora").setup()
    assert code == 1
    assert said == "setup: no Python here. Install Python 3 with its module venv, and g++\n"


def test_the_interpreter_that_is_here_is_taken_once(tmp_path) -> None:
    machine = Machine(tmp_path, "debian 12")
    machine.python("python3.11", "3.11")
    machine.python("python3", "3.11")
    code, said, asked = machine.setup()
    assert (code, said.splitlines()[-1], len(asked)) == (0, "setup: done", 3)
    assert "with Python 3.11.7" in said and not any(line.startswith("uv") for line in asked)
    assert machine.setup() == (0, "", [])  # nothing to do a second time


def test_uv_fetches_one_where_there_is_none(tmp_path) -> None:
    machine = Machine(tmp_path, "debian 13")
    machine.python("python3", "3.13")
    code, said, asked = machine.setup()
    assert (code, said.splitlines()[-1]) == (0, "setup: done")
    assert f"installing uv into {'.venv-uv'}" in said and "uv fetches 3.11" in said
    assert asked[0].endswith("install uv==0.13.9")
    assert "uv python install 3.11" in asked and "with Python 3.11.7" in said
    assert machine.setup() == (0, "", [])


def test_a_uv_that_is_here_and_what_it_has_fetched_are_used(tmp_path) -> None:
    machine = Machine(tmp_path, "ubuntu 26.04")
    machine.python("python3", "3.14", venv=False)
    machine.tool("uv")
    machine.fetched.write_bytes(machine.fetched.with_name("3.11.there").read_bytes())
    machine.fetched.chmod(0o755)
    code, said, asked = machine.setup()
    assert code == 0 and "fetches" not in said
    assert asked[0] == "uv python find --no-project 3.11"
    assert not any("install 3.11" in line or "uv==" in line for line in asked)


def test_what_cannot_be_fetched_is_said_with_the_ways_out(tmp_path) -> None:
    machine = Machine(tmp_path, "debian 13", reachable=False)
    machine.python("python3", "3.13")
    code, said, _ = machine.setup()
    assert code == 1
    assert "uv could not fetch Python 3.11" in said.splitlines()[-1]
    assert "UV_PYTHON_INSTALL_MIRROR=URL" in said and "PYTHON=/path/to/python3.11" in said


@pytest.mark.parametrize("has", ["3.11", "3.13"])
def test_an_index_out_of_reach_is_said_with_the_ways_out(tmp_path, has) -> None:
    machine = Machine(tmp_path, "debian 12", index=False)
    machine.python("python3", has)
    code, said, _ = machine.setup()
    assert code == 1 and not (machine.project / ".venv" / "setup.stamp").exists()
    last = said.splitlines()[-1]
    assert last.startswith("setup: pip could not install ")
    assert "https_proxy=URL" in last and "PIP_INDEX_URL=URL" in last


def test_uv_trusts_what_pip_trusts(tmp_path) -> None:
    machine = Machine(tmp_path, "debian 13")
    machine.python("python3", "3.14")
    _, _, asked = machine.setup(PIP_CERT="/corporate.crt")
    assert "uv python install 3.11 trusts /corporate.crt" in asked
    machine.fetched.unlink()
    _, _, asked = machine.setup(PIP_CERT="/a.crt", SSL_CERT_FILE="/b.crt", PYTHON="")
    assert not any("trusts /a.crt" in line for line in asked)


def test_two_at_once_install_once(tmp_path) -> None:
    machine = Machine(tmp_path, "debian 12", slow_s=0.3)
    machine.python("python3", "3.11")
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: machine.setup(), range(2)))
    assert [code for code, *_ in found] == [0, 0]
    waited = f"setup: another make setup is at work in {machine.project}; waiting for it\n"
    assert sorted(said.count("setup: done") for _, said, _ in found) == [0, 1]
    assert [said for _, said, _ in found if "done" not in said] == [waited]
    assert len(machine.log.read_text().splitlines()) == 3  # pip was asked by one


def test_a_path_may_have_spaces(tmp_path) -> None:
    machine = Machine(tmp_path / "a checkout of mine", "debian 13")
    machine.python("python3", "3.13")
    code, said, asked = machine.setup()
    assert (code, said.splitlines()[-1]) == (0, "setup: done") and len(asked) > 3
    assert machine.setup() == (0, "", [])


def test_without_venv_nothing_can_be_fetched(tmp_path) -> None:
    machine = Machine(tmp_path, "debian 13")
    machine.python("python3", "3.13", venv=False)
    code, said, asked = machine.setup()
    assert (code, asked) == (1, [])
    assert f"as root: apt-get install -y python3-venv g++   {LEFT_OUT}" in said
    machine.tool("g++")
    assert machine.setup()[1].endswith("as root: apt-get install -y python3-venv\n")


def test_an_incomplete_interpreter_of_ones_own_is_passed_over(tmp_path) -> None:
    machine = Machine(tmp_path, "debian 12")
    own = machine.python("python3.11", "3.11", lacks="libpython3.11")
    machine.python("python3.12", "3.12")
    code, said, _ = machine.setup()
    assert code == 0
    assert f"passing over {own}, which lacks libpython3.11" in said and "3.12.7" in said


def test_a_named_interpreter_is_taken_or_refused(tmp_path) -> None:
    machine = Machine(tmp_path, "ubuntu 24.04")
    machine.python("python3.11", "3.11")
    machine.python("mine", "3.12")
    machine.python("new", "3.14")
    machine.python("poor", "3.12", lacks="python3.12-dev gcc")
    machine.tool("g++")
    assert "with Python 3.12.7" in machine.setup(PYTHON="mine")[1]
    assert machine.setup(PYTHON="none")[:2] == (1, "setup: PYTHON=none: there is no such program\n")
    assert machine.setup(PYTHON="new")[:2] == (
        1, "setup: PYTHON=new is Python 3.14.7, expected Python 3.11 or 3.12\n",
    )  # fmt: skip
    said = "setup: PYTHON=poor lacks what Debian's packages python3.12-dev gcc bring\n"
    assert machine.setup(PYTHON="poor")[:2] == (1, said)
    machine.tool("apt-get")
    assert machine.setup(PYTHON="poor")[:2] == (
        1,
        "setup: PYTHON=poor cannot serve yet; as root: apt-get install -y python3.12-dev gcc\n",
    )


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        *((name, "as root: apt-get install -y g++") for name in RELEASES if name[:3] in "debubu"),
        ("mint", "as root: apt-get install -y g++"),
        ("fedora", "as root: dnf install -y gcc-c++"),
        ("rocky", "as root: dnf install -y gcc-c++"),
        ("opensuse", "as root: zypper install -y gcc-c++"),
        ("arch", "as root: pacman -S --noconfirm gcc"),
        ("nixos", "with this system's package manager install a C++ compiler (g++)"),
    ],
)
def test_each_distribution_has_its_own_command(tmp_path, release, expected) -> None:
    (tmp_path / "os-release").write_text(RELEASES[release])
    assert distribution.install("g++", release=tmp_path / "os-release") == expected


def test_no_os_release_is_no_error(tmp_path) -> None:
    said = distribution.install("g++", "python3-venv", release=tmp_path / "none")
    assert said.endswith("install a C++ compiler (g++), Python 3 with its module venv")


@pytest.mark.slow
def test_the_distributions_own_pythons() -> None:
    assert "debian 13" not in distribution.PYTHONS
    assert {distribution.PYTHONS.get(name) for name in RELEASES} == {"3.11", "3.12", None}
