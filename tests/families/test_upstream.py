"""Importing upstream's modules: nothing that they do not use comes along, nothing is changed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fish_speech")
pytestmark = [pytest.mark.torch, pytest.mark.slow]
PROJECT = Path(__file__).resolve().parents[2]


def test_stand_ins_do_not_stay():
    import importlib.util

    import families.fish_s1.upstream  # noqa: F401

    for name in ("transformers", "audiotools", "librosa", "argbind", "loralib"):
        assert importlib.util.find_spec(name) or name not in sys.modules


def test_an_installed_package_that_upstream_does_not_use_is_not_imported(tmp_path):
    """As on a machine with transformers and without librosa, which transformers looks for.

    Nor is torch's compiler, of which upstream only sets options.
    """
    for name in ("transformers", "audiotools"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ValueError('librosa.__spec__ is None')")
    script = (
        "import importlib.util, sys, families.fish_s1.upstream as upstream\n"
        "assert not {'transformers', 'torch._inductor', 'torch._dynamo'} & sys.modules.keys()\n"
        "print(importlib.util.find_spec('transformers').origin)"
    )
    path = os.pathsep.join([str(tmp_path), str(PROJECT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == str(tmp_path / "transformers" / "__init__.py"), done.stderr


def test_what_is_imported_already_is_left_as_it_is():
    """The options of torch's compiler above all, which upstream sets for the whole process."""
    script = (
        "import sys, torch, torch._inductor.config as config\n"
        "before = config.get_config_copy()\n"
        "import families.fish_s1.upstream\n"
        "assert sys.modules['torch._inductor.config'] is torch._inductor.config is config\n"
        "assert config.get_config_copy() == before"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
