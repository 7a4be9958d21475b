"""Specs of Data-Juicer 1.6.1's operators, reviewed one by one. Mostly data.

``pure`` operators compute on a row's text, image and stats. They read models and word lists that the profile or the
recipe names, run no code of a recipe, contact no address and write no file. Operators with ``needs_trust`` do one of
these things. ``unusable`` operators need other rows than image-text pairs or change what a recipe cannot record. They
were classified by their parameters and by searching their modules for calls that evaluate, download, start programs or
load pickles. ``trust`` also refuses operators whose parameters contain an address or free arguments of a model's
loader. A test checks that every operator is covered.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bettersynth_assets.errors import ConfigError
from bettersynth_assets.operators.spec import PIECES, Arguments, ClassifierHead, ModelRole, Need, OperatorSpec

if TYPE_CHECKING:
    from data_juicer.ops.base_op import OP
    from torch import Tensor

_PURE = """
average_line_length_filter character_repetition_filter image_face_count_filter image_face_ratio_filter
image_subplot_filter maximum_line_length_filter special_characters_filter text_length_filter

chinese_convert_mapper clean_copyright_mapper clean_email_mapper clean_html_mapper clean_ip_mapper
clean_links_mapper expand_macro_mapper extract_tables_from_html_mapper fix_unicode_mapper
latex_figure_context_extractor_mapper nlpaug_en_mapper nlpcda_zh_mapper pii_redaction_mapper
punctuation_normalization_mapper remove_bibliography_mapper remove_comments_mapper remove_header_mapper
remove_long_words_mapper remove_non_chinese_character_mapper
remove_specific_chars_mapper remove_table_text_mapper remove_words_with_incorrect_substrings_mapper
replace_content_mapper sentence_split_mapper whitespace_normalization_mapper

document_deduplicator document_minhash_deduplicator_with_uid document_simhash_deduplicator image_deduplicator
"""
"""Pure operators that need no further spec."""

_PICKLES = "loads weights that are pickles, downloaded by name"
_NEEDS_TRUST = {
    "python_lambda_mapper": "runs code of the recipe",
    "python_file_mapper": "runs a Python file that the recipe names",
    "image_ohem_selector": "runs a Python file that the recipe names",
    "download_file_mapper": "downloads from addresses in the rows",
    "s3_download_file_mapper": "downloads from addresses in the rows",
    "s3_upload_file_mapper": "uploads files",
    "human_preference_annotation_mapper": "sends rows to an annotation server",
    "latex_merge_tex_mapper": "opens files that the rows name",
    "sentence_augmentation_mapper": "downloads a model that no key of the profile names",
    "image_detection_yolo_mapper": _PICKLES,
    "image_segment_mapper": _PICKLES,
    "image_tagging_mapper": _PICKLES,
    "image_mmpose_mapper": "installs packages and runs programs",
    "image_sam_3d_body_mapper": "installs packages and runs programs",
}

_IMAGES = "changes images, which a recipe cannot record"
_INSIDE = "runs other operators, which belong in the list themselves"
_TWO_IMAGES = "compares two images of a row, but rows have one"
_DIALOGUE = "reads dialogues of agents, which rows do not have"
_VIDEO = "reads video, but rows have one image and a caption"
_UNUSABLE = {
    "image_blur_mapper": _IMAGES,
    "image_face_blur_mapper": _IMAGES,
    "image_remove_background_mapper": _IMAGES,
    "sdxl_prompt2prompt_mapper": _IMAGES,
    "general_fused_op": _INSIDE,
    "fused_sequential_batch_op": _INSIDE,
    "detect_character_attributes_mapper": _INSIDE,
    "detect_character_locations_mapper": _INSIDE,
    "detect_main_character_mapper": _INSIDE,
    "imgdiff_difference_area_generator_mapper": _TWO_IMAGES,
    "imgdiff_difference_caption_generator_mapper": _TWO_IMAGES,
    "image_pair_similarity_filter": _TWO_IMAGES,
    "agent_bad_case_signal_mapper": _DIALOGUE,
    "agent_dialog_normalize_mapper": _DIALOGUE,
    "agent_tool_type_mapper": _DIALOGUE,
    "tool_success_tagger_mapper": _DIALOGUE,
    "usage_counter_mapper": _DIALOGUE,
    "document_line_deduplicator": "removes lines within texts, but captions have one line",
    "export_to_lerobot_mapper": _VIDEO,
    "vggt_mapper": _VIDEO,
}
UNUSABLE_PREFIXES = {"video_": _VIDEO, "audio_": "reads audio, but rows have one image and a caption"}
_SYNTHESISE = ("image_captioning_mapper", "mllm_mapper", "image_diffusion_mapper")

_SPACY = Need(role="spacy", packages=(("spacy", "spacy"),))
_TOKENIZER = Need(role="tokenizer")
_HF_CLIP = ModelRole(argument="hf_clip", role="clip")
_MINHASH, _AESTHETICS = "document_minhash_deduplicator", "image_aesthetics_filter"


def _pure(name: str, **fields: Any) -> OperatorSpec:
    return OperatorSpec(name=name, pure=True, **fields)


def _is_int(value: object) -> bool:
    return type(value) is int


def _is_positive(value: object) -> bool:
    return type(value) is int and value > 0


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _second_probability(logits: Tensor, operator: OP) -> Tensor:
    return logits.softmax(-1)[:, 1]


def _aesthetics(logits: Tensor, operator: OP) -> Tensor:
    return logits.flatten() / (10.0 if operator.need_normalized_by_ten else 1.0)


def _check_minhash(arguments: Arguments) -> None:
    """Refuse shingles that are longer than the shortest text: all such texts would count as equal.

    A caption of one word is three tokens in the kit's format.
    """
    window = arguments.get("window_size", 5)
    if arguments.get("tokenization", "space") == "space" and window > 3:
        raise ConfigError(
            f"{_MINHASH}: window_size = {window} makes all captions of fewer than {window - 2} words duplicates of "
            "each other: set window_size to 3 or less"
        )


def _check_aesthetics(arguments: Arguments) -> None:
    """Refuse paths that do not tell Data-Juicer the model's class, or whose scores would stay on a scale of 0 to 10."""
    path = str(arguments.get("hf_scorer_model") or "aesthetics-predictor-v1")
    is_known = "v1" in path or ("v2" in path and ("linear" in path or "relu" in path))
    if not is_known or "aesthetics-predictor" not in path:
        raise ConfigError(
            f"{_AESTHETICS}: hf_scorer_model = {path!r}: Data-Juicer derives the model's class and scale from the path "
            "which must contain aesthetics-predictor-v1, aesthetics-predictor-v2…linear or aesthetics-predictor-v2…relu"
        )


def _names_in(arguments: Arguments) -> Iterator[str]:
    """Return the fields that a condition names; none if it is no expression, which the operator reports."""
    condition = arguments.get("filter_condition")
    try:
        tree = ast.parse(condition.strip() or "True", mode="eval") if isinstance(condition, str) else ast.Module([], [])
    except SyntaxError:
        return
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and id(node) not in inner:
            yield ast.unparse(node)


def _word_list_filter(name: str, kind: str) -> OperatorSpec:
    """Spec of an operator that reads a word list; ``kind`` is its name without extension."""
    need = Need(role="words", files=(f"{kind}.json",), argument=f"{kind}_dir")
    return _pure(name, cost="caption", needs=(need,))


_KNOWN = (
    _pure("alphanumeric_filter", cost="caption", word_splitter=_TOKENIZER),
    _word_list_filter("flagged_words_filter", "flagged_words"),
    _word_list_filter("stopwords_filter", "stopwords"),
    _pure("general_field_filter", cost="caption", required=("filter_condition",), fields=_names_in),
    _pure(
        _AESTHETICS,
        model=ModelRole(argument="hf_scorer_model", role="aesthetics"),
        check=_check_aesthetics,
        classifier=ClassifierHead(stat="image_aesthetics_scores", output="logits", score=_aesthetics),
    ),
    _pure(
        "image_aspect_ratio_filter",
        cost="header",
        header_stats=lambda row: {"aspect_ratios": [row["width"] / row["height"]]},
    ),
    _pure(
        "image_nsfw_filter",
        model=ModelRole(argument="hf_nsfw_model", role="nsfw"),
        classifier=ClassifierHead(stat="image_nsfw_score", output="logits", score=_second_probability),
    ),
    _pure(
        "image_shape_filter",
        cost="header",
        known_values=dict.fromkeys(("min_width", "max_width", "min_height", "max_height"), _is_int),
        header_stats=lambda row: {"image_width": [row["width"]], "image_height": [row["height"]]},
    ),
    _pure("image_size_filter", cost="header", header_stats=lambda row: {"image_sizes": [row["bytes"]]}),
    _pure(
        "image_text_matching_filter",
        model=ModelRole(argument="hf_blip", role="matching"),
        classifier=ClassifierHead(
            stat="image_text_matching_score", output="itm_score", score=_second_probability, reads_caption=True
        ),
        execution="batches",
    ),
    _pure(
        "image_text_similarity_filter",
        model=_HF_CLIP,
        measures_similarity_with=frozenset({"hf_clip", "horizontal_flip", "vertical_flip"}),
    ),
    _pure(
        "image_watermark_filter",
        model=ModelRole(argument="hf_watermark_model", role="watermark"),
        known_values={"prob_threshold": _is_number},
        classifier=ClassifierHead(stat="image_watermark_prob", output="logits", score=_second_probability),
    ),
    _pure(
        "language_id_score_filter",
        cost="caption",
        needs=(Need(role="language_id", packages=(("fasttext", "fasttext-predict"),)),),
    ),
    _pure(
        "perplexity_filter",
        cost="caption",
        needs=(
            Need(
                role="perplexity",
                packages=(("sentencepiece", "sentencepiece"), ("kenlm", "kenlm")),
                files=(PIECES, "{lang}.arpa.bin"),
            ),
        ),
    ),
    _pure(
        "phrase_grounding_recall_filter",
        model=ModelRole(argument="hf_owlvit", role="grounding"),
        needs=(
            Need(
                role="nltk",
                packages=(("nltk", "nltk"),),
                files=("tokenizers/punkt_tab/english", "taggers/averaged_perceptron_tagger_eng"),
            ),
        ),
    ),
    _pure("specified_field_filter", cost="caption", required=("field_key", "target_value")),
    _pure("specified_numeric_field_filter", cost="caption", required=("field_key",)),
    _pure(
        "suffix_filter",
        cost="caption",
        required=("suffixes",),
        fields=lambda arguments: ["__dj__suffix__"] if arguments.get("suffixes") else [],
    ),
    _pure("text_action_filter", cost="caption", needs=(_SPACY,)),
    _pure("text_entity_dependency_filter", cost="caption", needs=(_SPACY,)),
    _pure("text_pair_similarity_filter", cost="caption", model=_HF_CLIP, required=("text_key_second",)),
    _pure("token_num_filter", cost="caption", needs=(Need(role="tokenizer", argument="hf_tokenizer"),)),
    _pure(
        "word_repetition_filter",
        cost="caption",
        known_values={"rep_len": _is_positive, "min_ratio": _is_number, "max_ratio": _is_number},
    ),
    _pure("words_num_filter", cost="caption", known_values={"min_num": _is_int, "max_num": _is_int}),
    _pure("remove_repeat_sentences_mapper", code_arguments={"tokenizer": "is code that would be run"}),
    _pure("text_chunk_mapper", code_arguments={"tokenizer": "names a tokenizer that would be downloaded"}),
    _pure(_MINHASH, cost="caption", check=_check_minhash),
    _pure(
        "frequency_specified_field_selector", cost="caption", required=("field_key",), not_zero=("top_ratio",)
    ),
    _pure("random_selector", cost="caption", not_zero=("select_ratio",)),
    _pure("range_specified_field_selector", cost="caption", required=("field_key",)),
    _pure("tags_specified_field_selector", cost="caption", required=("field_key", "target_tags")),
    _pure("topk_specified_field_selector", cost="caption", required=("field_key",), not_zero=("top_ratio",)),
)  # fmt: skip

SPECS = (
    *_KNOWN,
    *(_pure(name, cost="image" if name.startswith("image_") else "caption") for name in _PURE.split()),
    *(OperatorSpec(name=name, needs_trust=reason) for name, reason in _NEEDS_TRUST.items()),
    *(OperatorSpec(name=name, unusable=reason) for name, reason in _UNUSABLE.items()),
    *(OperatorSpec(name=name, synthesises=True) for name in _SYNTHESISE),
)
