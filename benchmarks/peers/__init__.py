"""The side-by-side benchmark; run it with ``python benchmarks/peers``."""
