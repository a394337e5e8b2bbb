"""`make audit` says what it could not ask, and never that all is well when nobody answered."""

import importlib.util
import subprocess
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parents[2] / "tools" / "audit.py"
SKIPPED = {"name": "six", "skip_reason": "Dependency not found on PyPI"}
SAFE = {"name": "numpy", "version": "1.26.4", "vulns": []}
BAD = {"name": "x", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2", "3"]}]}


@pytest.fixture
def audit(monkeypatch):
    spec = importlib.util.spec_from_file_location("audit", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "tool", lambda: PATH)  # it would be installed
    return module


@pytest.mark.parametrize("answer", [[], [SKIPPED]], ids=["no answer", "nothing known"])
def test_no_database(audit, monkeypatch, capsys, answer) -> None:
    monkeypatch.setattr(audit, "asked", lambda path, service: answer)
    assert audit.main() == 0
    assert capsys.readouterr().out.startswith("audit: NOT DONE. No vulnerability database can be")


def test_the_index_does_not_have_the_tool(audit, monkeypatch, capsys) -> None:
    def fail() -> None:
        raise subprocess.CalledProcessError(1, "pip")

    monkeypatch.setattr(audit, "tool", fail)
    assert audit.main() == 0
    assert "NOT DONE. The package index does not give pip-audit" in capsys.readouterr().out


def test_the_second_database_is_asked_when_the_first_knows_nothing(
    audit, monkeypatch, capsys
) -> None:
    answers = {"pypi": [SKIPPED], "osv": [SAFE, SKIPPED]}
    monkeypatch.setattr(audit, "asked", lambda path, service: answers[service])
    assert audit.main() == 0
    said = capsys.readouterr().out
    assert "osv does not know 1 packages: six" in said
    assert "1 of 2 packages asked about, 0 vulnerabilities" in said


def test_a_vulnerability_is_an_error(audit, monkeypatch, capsys) -> None:
    monkeypatch.setattr(audit, "asked", lambda path, service: [SAFE, BAD])
    assert audit.main() == 1
    assert "audit: x 1: CVE-1, fixed in 2, 3" in capsys.readouterr().out
