"""Data-Juicer 1.6.1's operators, sorted: which are pure, which run foreign code, which cannot be used here.

``PURE`` operators compute on a row's text, image and stats. They read models and word lists that the profile or the
recipe names, run no code from a recipe, call no address and write no file. ``NEEDS_TRUST`` operators do one of these
things, so they need ``trusted_code: true`` in the profile. ``UNUSABLE`` operators need other rows than image-text pairs
or change what a recipe cannot record. They were sorted by their parameters and by a search of their modules for calls
that evaluate, fetch, start programs or load pickles. ``trust`` also refuses, by their parameters, operators
that call an address or hand free arguments to a model's loader. A test checks that every operator is covered.
"""

from __future__ import annotations

_PURE = """
alphanumeric_filter average_line_length_filter character_repetition_filter flagged_words_filter general_field_filter
image_aesthetics_filter image_aspect_ratio_filter image_face_count_filter image_face_ratio_filter image_nsfw_filter
image_shape_filter image_size_filter image_subplot_filter image_text_matching_filter image_text_similarity_filter
image_watermark_filter language_id_score_filter maximum_line_length_filter perplexity_filter
phrase_grounding_recall_filter special_characters_filter specified_field_filter specified_numeric_field_filter
stopwords_filter suffix_filter text_action_filter text_entity_dependency_filter text_length_filter
text_pair_similarity_filter token_num_filter word_repetition_filter words_num_filter

chinese_convert_mapper clean_copyright_mapper clean_email_mapper clean_html_mapper clean_ip_mapper
clean_links_mapper expand_macro_mapper extract_tables_from_html_mapper fix_unicode_mapper
latex_figure_context_extractor_mapper nlpaug_en_mapper nlpcda_zh_mapper pii_redaction_mapper
punctuation_normalization_mapper remove_bibliography_mapper remove_comments_mapper remove_header_mapper
remove_long_words_mapper remove_non_chinese_character_mapper remove_repeat_sentences_mapper
remove_specific_chars_mapper remove_table_text_mapper remove_words_with_incorrect_substrings_mapper
replace_content_mapper sentence_split_mapper text_chunk_mapper whitespace_normalization_mapper

document_deduplicator document_minhash_deduplicator document_minhash_deduplicator_with_uid
document_simhash_deduplicator image_deduplicator frequency_specified_field_selector random_selector
range_specified_field_selector tags_specified_field_selector topk_specified_field_selector

clip_score_filter image_near_duplicate_deduplicator kmeans_diversity_selector
"""
PURE = frozenset(_PURE.split())

_PICKLES = "loads weights that are pickles, fetched by name"
NEEDS_TRUST = {
    "python_lambda_mapper": "runs code that the recipe holds",
    "python_file_mapper": "runs a Python file that the recipe names",
    "image_ohem_selector": "runs a Python file that the recipe names",
    "download_file_mapper": "downloads from addresses that rows name",
    "s3_download_file_mapper": "downloads from addresses that rows name",
    "s3_upload_file_mapper": "uploads files",
    "human_preference_annotation_mapper": "sends rows to an annotation server",
    "latex_merge_tex_mapper": "opens files that rows name",
    "sentence_augmentation_mapper": "fetches a model that no key of the profile names",
    "image_detection_yolo_mapper": _PICKLES,
    "image_segment_mapper": _PICKLES,
    "image_tagging_mapper": _PICKLES,
    "image_mmpose_mapper": "installs packages and runs programs",
    "image_sam_3d_body_mapper": "installs packages and runs programs",
}

_IMAGES = "changes images, which a recipe cannot record"
_INSIDE = "runs other operators inside, which belong into the list themselves"
_TWO_IMAGES = "compares the two images of a row, and a row here has one"
_DIALOGUE = "reads dialogues of agents, which rows here do not have"
UNUSABLE = {
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
    "document_line_deduplicator": "removes lines inside of texts, which are captions of one line here",
    "export_to_lerobot_mapper": "reads video, and a row here has one image and a caption",
    "vggt_mapper": "reads video, and a row here has one image and a caption",
}
UNUSABLE_PREFIXES = {
    "video_": "reads video, and a row here has one image and a caption",
    "audio_": "reads audio, and a row here has one image and a caption",
}

CODE_ARGUMENTS = {
    ("remove_repeat_sentences_mapper", "tokenizer"): "is code that would be run",
    ("text_chunk_mapper", "tokenizer"): "names a tokenizer that would be fetched",
}
"""Arguments of pure operators that need ``trusted_code``."""
