"""TextVQA and MMBench of three questions each, in their official layouts, and a tiny checkpoint."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from toolkit.models.mgm.tiny import save_tiny

TAIL = "\nReference OCR token: AB\nAnswer the question using a single word or phrase."


def write_benchmarks(folder: Path) -> Path:
    """Fill a folder that is there; returns it."""
    save_tiny(folder / "model", initializer_range=0.5)
    (folder / "images").mkdir()
    questions, annotations, rows = [], [], []
    for number in range(3):
        values = np.random.default_rng(number).integers(0, 256, (40, 40 + 9 * number, 3), dtype=np.uint8)
        path = folder / "images" / f"i{number}.png"
        Image.fromarray(values).save(path)
        question = "What is it" + "?" * (number + 1)
        questions.append({"question_id": f"i{number}", "image": path.name, "text": question + TAIL})
        annotations.append({"image_id": f"i{number}", "question": question, "answers": ["x"] * 10})
        for turn in range(2):
            row = {
                "index": str(number + turn * 1_000_000),
                "question": "Which?",
                "hint": "",
                "A": "a",
                "B": "b",
                "C": "c" * number,
            }
            image = base64.b64encode(path.read_bytes()).decode()
            rows.append({**row, "D": "", "answer": "AB"[turn], "split": "dev", "image": image})
    (folder / "q.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    (folder / "a.json").write_text(json.dumps({"dataset_version": "0.5.1", "dataset_type": "val", "data": annotations}))
    pd.DataFrame(rows).to_csv(folder / "m.tsv", sep="\t", index=False)
    return folder
