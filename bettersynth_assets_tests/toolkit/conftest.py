"""Before any test module imports torchvision, the hook that makes it importable beside a CPU torch must be there."""

import toolkit  # noqa: F401
