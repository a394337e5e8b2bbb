"""`python -m engine.kernels`: compiles the operators for this machine beforehand."""

from engine.kernels.build import fault, library

reason = fault()
print(f"kernels: {reason or library()}")
raise SystemExit(reason is not None)
