"""Which files a row's image field may name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bettersynth_assets.images.opening import ImageError
from bettersynth_assets.images.paths import image_path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root/images").mkdir(parents=True)
    (tmp_path / "root/images/a.jpg").write_bytes(b"a")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/b.jpg").write_bytes(b"b")
    return tmp_path / "root"


def reason(root: Path, image: str) -> str:
    with pytest.raises(ImageError) as error:
        image_path(root, image)
    return error.value.reason


@pytest.mark.parametrize(
    "image",
    ["/etc/hostname", "../outside/b.jpg", "images/../../outside/b.jpg", "images/..", r"C:\b.jpg", r"\\host\b.jpg"],
)
def test_a_path_that_leaves_the_root_is_an_escape(image: str, root: Path) -> None:
    assert reason(root, image) == "path_escape"


def test_file_and_folder_links_out_of_the_root_are_escapes(root: Path) -> None:
    (root / "images/link.jpg").symlink_to(root.parent / "outside/b.jpg")
    (root / "folder").symlink_to(root.parent / "outside")
    (root.parent / "root-b").mkdir()
    (root / "images/beside.jpg").symlink_to(root.parent / "root-b")
    assert reason(root, "images/link.jpg") == "path_escape"
    assert reason(root, "folder/b.jpg") == "path_escape"
    assert reason(root, "images/beside.jpg") == "path_escape"


def test_links_inside_the_root_and_a_linked_root_are_followed(root: Path) -> None:
    (root / "images/link.jpg").symlink_to("a.jpg")
    linked = root.parent / "linked"
    linked.symlink_to(root)
    assert Path(image_path(root, "images/link.jpg")).read_bytes() == b"a"
    assert Path(image_path(linked, "images/a.jpg")).read_bytes() == b"a"


@pytest.mark.parametrize(
    "image", ["https://host/a.jpg", "s3://bucket/a.jpg", "file:///etc/x", "data:image/png;base64,"]
)
def test_a_url_is_refused(image: str, root: Path) -> None:
    assert reason(root, image) == "url_refused"


@pytest.mark.parametrize("image", ["images/none.jpg", "none/a.jpg", "images", "images/", "a\0b", "x" * 5000])
def test_a_path_that_is_not_a_file_is_a_missing_image(image: str, root: Path) -> None:
    assert reason(root, image) == "missing_image"


def test_a_named_pipe_does_not_block_the_reader(root: Path) -> None:
    os.mkfifo(root / "images/pipe.jpg")
    assert reason(root, "images/pipe.jpg") == "missing_image"
