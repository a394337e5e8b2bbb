"""`python -m benchmarks.demo`, which `make demo` runs."""

from benchmarks.demo.run import main

main()
