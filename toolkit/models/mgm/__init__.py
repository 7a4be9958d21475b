"""MGM (Mini-Gemini): a Gemma language model that looks through two frozen image towers.

The modules that compute import torch; `names` and `conversation` do not. The names most callers need:

* :class:`toolkit.models.mgm.configuration_mgm.MGMConfig`
* :class:`toolkit.models.mgm.modeling_mgm.MGMGemmaForCausalLM`
* :class:`toolkit.models.mgm.processing_mgm.MGMProcessor`
"""
