"""`make audit`: whether the pinned packages have known vulnerabilities, or that nobody was asked.

pip-audit asks the package index, or https://api.osv.dev. Where neither has a vulnerability database
it says "no known vulnerabilities" all the same, so this counts for how many packages there was an
answer. It runs in an environment of its own, which `build/` keeps.
"""

import json
import subprocess
import sys
import venv
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
TOOL = "pip-audit==2.10.1"  # not in requirements/: nothing here imports it
FOLDER = PROJECT / "build" / "audit"
SERVICES = ("pypi", "osv")
LIMIT_S = 60  # for one list at one service


def main() -> int:
    """Ask about every list in requirements/; 1 if a package has a known vulnerability."""
    lists = sorted((PROJECT / "requirements").glob("*.txt"))
    try:
        tool()
    except subprocess.CalledProcessError:
        print(f"audit: NOT DONE. The package index does not give {TOOL}.")
        return 0
    for service in SERVICES:
        if not known(asked(lists[0], service)):
            continue
        found = {d["name"]: d for path in lists for d in asked(path, service)}
        return told(list(found.values()), service)
    print(
        "audit: NOT DONE. No vulnerability database can be reached from here: the package index "
        "has none, and api.osv.dev does not answer. Nothing is known of any package. Run "
        "`make audit` where one of them can be reached."
    )
    return 0


def known(found: list[dict]) -> list[dict]:
    """Packages for which there was an answer."""
    return [d for d in found if "skip_reason" not in d]


def asked(path: Path, service: str) -> list[dict]:
    """What a service says of each package of a list; [] if it does not answer."""
    command = [
        str(tool()), "--disable-pip", "--no-deps", "--progress-spinner", "off",
        "--format", "json", "--vulnerability-service", service, "--requirement", str(path),
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
        return json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, json.JSONDecodeError, KeyError):
        return []


def told(found: list[dict], service: str) -> int:
    """Print what was found."""
    audited = known(found)
    bad = [(d, v) for d in audited for v in d["vulns"]]
    for package, problem in bad:
        fixed = ", ".join(problem["fix_versions"]) or "no version"
        print(f"audit: {package['name']} {package['version']}: {problem['id']}, fixed in {fixed}")
    if unknown := sorted(d["name"] for d in found if "skip_reason" in d):
        print(f"audit: {service} does not know {len(unknown)} packages: {', '.join(unknown)}")
    print(f"audit: {len(audited)} of {len(found)} packages asked about, {len(bad)} vulnerabilities")
    return int(bool(bad))


def tool() -> Path:
    """pip-audit, installed when it is first needed."""
    program = FOLDER / "bin" / "pip-audit"
    if not program.is_file():
        venv.create(FOLDER, with_pip=True)
        install = [str(FOLDER / "bin" / "python"), "-m", "pip", "install", "--quiet", TOOL]
        subprocess.run(install, check=True)
    return program


if __name__ == "__main__":
    sys.exit(main())
