"""Registry of benchmarks: instances of ``protocol.Benchmark`` by name. docs/extending.md shows how to add one.

An extension file registers one with ``BENCHMARKS.register(name, benchmark)``, an installed package with the entry point
``bettersynth.benchmarks``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolkit.registry import Registry

if TYPE_CHECKING:
    from toolkit.evaluation.benchmarks.protocol import Benchmark

BENCHMARKS: Registry[Benchmark] = Registry(
    "benchmark",
    group="bettersynth.benchmarks",
    built_in={
        "textvqa": "toolkit.evaluation.benchmarks.textvqa.benchmark:TEXTVQA",
        "mmbench": "toolkit.evaluation.benchmarks.mmbench.benchmark:MMBENCH",
        "mme": "toolkit.evaluation.benchmarks.mme:MME_BENCHMARK",
        "pope": "toolkit.evaluation.benchmarks.pope:POPE_BENCHMARK",
        "gqa": "toolkit.evaluation.benchmarks.gqa:GQA_BENCHMARK",
    },
)
