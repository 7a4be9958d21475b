"""MGM (Mini-Gemini): a Gemma language model with two frozen vision towers.

::

    configuration_mgm, modeling_mgm, processing_mgm   config, model and preprocessing, as in Hugging Face's libraries
    backbone          Gemma's decoder with MGM's additional modules, under their public names
    architecture      registration with the trainer and the evaluation
    weights           public names of tensors, and loading of a projector file
    assemble, published   commands that build a checkpoint from public weights
    tiny              a model with random weights for tests
    vision/           images to tower features: pixels, towers, patch-info mining, feature cache
    language/         conversation template, merging with image embeddings, decoder, loss
    answering/        batched answers and log-probabilities of candidates
    common/           names of weights and tokens, speed switches

The folders import nothing of this level. ``common.names`` and ``language.conversation`` do not import torch.
"""
