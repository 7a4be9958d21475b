"""MGM (Mini-Gemini): a Gemma language model with two frozen vision towers.

`names` and `conversation` do not import torch; the other modules do. The main classes:

* :class:`toolkit.models.mgm.configuration_mgm.MGMConfig`
* :class:`toolkit.models.mgm.modeling_mgm.MGMGemmaForCausalLM`
* :class:`toolkit.models.mgm.processing_mgm.MGMProcessor`
"""
