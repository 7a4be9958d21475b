"""Training and evaluation of MGM models, usable without Dagster."""

from toolkit import torchvision_cpu

torchvision_cpu.install()
