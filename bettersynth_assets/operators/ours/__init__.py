"""Our own operators: each module registers a class with Data-Juicer and its ``OperatorSpec``.

This package is the entry point in Data-Juicer's group ``data_juicer.ops``: plain ``dj-process`` only imports it. To add
 an operator, add a module here and its name to this import.
"""

from bettersynth_assets.operators.ours import caption_mapper as caption_mapper
from bettersynth_assets.operators.ours import clip_score_filter as clip_score_filter
from bettersynth_assets.operators.ours import image_near_duplicate_deduplicator as image_near_duplicate_deduplicator
from bettersynth_assets.operators.ours import kmeans_diversity_selector as kmeans_diversity_selector
from bettersynth_assets.operators.ours import regenerate_image_mapper as regenerate_image_mapper
