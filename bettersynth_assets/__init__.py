"""Better Synth on Dagster: data-centric training of vision-language models as a graph of assets."""

import toolkit as toolkit  # installs the torchvision import hook in every process that uses the package
