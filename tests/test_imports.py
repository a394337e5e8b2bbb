"""The import table: what each package may import of ours, and that no imports form a circle."""

import ast
import graphlib
import sys
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
CONTRACT = "ensemble.contract"
ENGINE = ("engine.schedule", "engine.lm", "engine.codec", "engine.kernels")
SERVER = (
    CONTRACT,
    "ensemble.serving",
    *ENGINE,
    "families",
    "export",
    "launch",
    "proxy",
    "ensemble.check",
)
# Package or module -> what it may import of ours beside itself. The longest name that fits counts,
# for the importing and for the imported module: `families` does not open `families.registry`.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    CONTRACT: (),
    "engine.kernels": (CONTRACT,),
    "engine.lm": ("engine.kernels", CONTRACT),
    "engine.codec": ("engine.kernels", CONTRACT),
    "engine.schedule": ("engine.lm", CONTRACT),
    "families.registry": (CONTRACT,),
    "families.columns": (CONTRACT,),
    "families.fish_s1.prompt": ("families.columns", CONTRACT),
    "families.fish_s2.prompt": ("families.columns", "families.fish_s2.tokenizer",
                                "families.fish_s2.turns", CONTRACT),
    "families.fish_s2.turns": (CONTRACT,),
    "families.fish_s2.tokenizer": ("families.registry", CONTRACT),
    "families": ("families.registry", "families.fish_s2.tokenizer", "engine.lm", "engine.codec",
                 CONTRACT),
    "export": ("families.registry", "engine.lm", "engine.codec", CONTRACT),
    "ensemble.serving": (*ENGINE, CONTRACT),
    "backends": ("ensemble.serving", *ENGINE, CONTRACT),
    "model_repository": ("ensemble.serving", *ENGINE, "families.registry", CONTRACT),
    "launch": ("families.registry", CONTRACT),
    "proxy": ("launch", CONTRACT),
    "ensemble.check": (CONTRACT,),
    "client.voicereel": (),
    "gateway": ("client.voicereel",),
    "examples": ("client.voicereel",),
    # The lab imports everything, and nothing above imports the lab.
    "training": (*SERVER, "families.registry", "families.fish_s2.prompt"),
    "benchmarks": (*SERVER, "families.registry", "families.fish_s1.prompt", "training",
                   "client.voicereel", "gateway"),
    "tools": (*SERVER, "families.registry", "benchmarks", "client.voicereel"),
}  # fmt: skip
TRITON = "triton_python_backend_utils"  # exists in a server only
MAY_IMPORT_TRITON = ("ensemble.serving", "backends", "model_repository")
WITHOUT_TORCH = (
    CONTRACT, "engine.schedule.scheduler", "families.registry", "families.columns",
    "families.fish_s1.prompt", "families.fish_s2.prompt", "families.fish_s2.turns",
    "families.fish_s2.tokenizer", "launch", "proxy", "client.voicereel", "gateway",
)  # fmt: skip


def modules() -> dict[str, Path]:
    """Every Python file of ours but tests and stubs, by its dotted name."""
    folders = {name.partition(".")[0] for name in MAY_IMPORT}
    paths = [path for folder in folders for path in (PROJECT / folder).rglob("*.py")]
    names = {".".join(path.relative_to(PROJECT).with_suffix("").parts): path for path in paths}
    return {name.removesuffix(".__init__"): path for name, path in names.items()}


def imports(module: str, path: Path) -> Iterator[str]:
    """Dotted names of what a file imports, wherever in it the import stands."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package.split(".")[: len(package.split(".")) + 1 - node.level])
            base = ".".join(filter(None, [above if node.level else "", node.module]))
            yield from (f"{base}.{alias.name}" for alias in node.names)


def part(module: str) -> str:
    """The longest name of the table that is the module or holds it, or ""."""
    holding = [name for name in MAY_IMPORT if f"{module}.".startswith(f"{name}.")]
    return max(holding, key=len, default="")


def found() -> Iterator[tuple[str, str, bool]]:
    """Module, the name of the table or the package that it imports, and whether it may."""
    ours = {name.partition(".")[0] for name in MAY_IMPORT}
    for module, path in modules().items():
        for imported in imports(module, path):
            name = f"client.{imported}" if imported.startswith("voicereel") else imported
            package = name.partition(".")[0]
            if package in ours:
                yield module, part(name), part(name) in (part(module), *MAY_IMPORT[part(module)])
            else:
                yield module, package, may_import(module, package)


def may_import(module: str, package: str) -> bool:
    """Whether a module may import a package that is not ours."""

    def held(names: tuple[str, ...]) -> bool:
        return any(f"{module}.".startswith(f"{name}.") for name in names)

    if package == TRITON:
        return held(MAY_IMPORT_TRITON)
    if held((CONTRACT,)):
        return package == "numpy" or package in sys.stdlib_module_names
    return package != "torch" or not held(WITHOUT_TORCH)


def test_imports_are_those_of_the_table() -> None:
    assert {(module, name) for module, name, may in found() if not may} == set()


def test_no_imports_form_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for module, name, _ in found():
        if part(name) and name != part(module):
            graph.setdefault(part(module), set()).add(name)
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the circle
