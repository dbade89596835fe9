"""Mini-ImageNet's two layouts, on a small stand-in of coloured squares."""

import csv

import numpy as np
import pytest
from PIL import Image

from quadriga.metalearn import mini_imagenet
from quadriga.metalearn.distributions import make_distribution
from quadriga.metalearn.trainer import MetaTrainer
from quadriga.platform import experiment as experiments
from quadriga.platform.errors import UserError

CLASSES, IMAGES = 6, 4
PARTS = ("train", "val", "test")


def picture(part, class_id, number):
    """Another colour for every class, another brightness for every image."""
    rng = np.random.default_rng((PARTS.index(part), class_id))
    color = rng.integers(40, 200, 3) + 10 * number
    return Image.fromarray(np.broadcast_to(color.astype(np.uint8), (90, 120, 3)).copy())


def in_folders(root):
    for part in PARTS:
        for class_id in range(CLASSES):
            folder = root / "mini-imagenet" / part / f"n{class_id:08d}"
            folder.mkdir(parents=True)
            for number in range(IMAGES):
                picture(part, class_id, number).save(folder / f"n{class_id:08d}{number:08d}.png")


def in_tables(root):
    images = root / "mini-imagenet" / "images"
    images.mkdir(parents=True)
    for part in PARTS:
        with (root / "mini-imagenet" / f"{part}.csv").open("w", newline="") as stream:
            rows = csv.writer(stream)
            rows.writerow(["filename", "label"])
            for class_id in range(CLASSES):
                for number in range(IMAGES):
                    name = f"{part}{class_id:08d}{number:08d}.png"
                    picture(part, class_id, number).save(images / name)
                    rows.writerow([name, f"n{class_id:08d}"])


@pytest.mark.parametrize("layout", [in_folders, in_tables])
def test_both_layouts_give_the_pictures(layout, tmp_path):
    layout(tmp_path)
    for again in range(2):  # the second time from the array that was made
        photos = mini_imagenet.load(tmp_path, "test")
        assert photos.sizes().tolist() == [IMAGES] * CLASSES
        for class_id in range(CLASSES):
            got = photos.images(class_id, np.array([3, 0]))
            assert got.shape == (2, 84, 84, 3) and got.dtype == np.float32
            for image, number in zip(got, (3, 0), strict=True):
                expected = np.asarray(picture("test", class_id, number))[0, 0] / 255
                np.testing.assert_allclose(image, np.broadcast_to(expected, image.shape), atol=1e-6)
        assert (tmp_path / "mini-imagenet" / "test84.npy").exists(), again


def test_a_run_learns_on_them(tmp_path):
    in_tables(tmp_path)
    experiment = experiments.build(
        {
            "preset": "reptile-mini-imagenet-5way-1shot",
            "steps": 2,
            "task": {"data_root": str(tmp_path), "filters": 4},
            "inner": {"shots": 3, "steps": 2, "batch_size": 5},
            "update": {"meta_batch": 1},
            "evaluation": {"steps": 2, "tasks": 1},
        }
    )
    metrics = MetaTrainer(experiment).train_iteration()
    assert metrics["meta_iterations"] == 2 and np.isfinite(metrics["inner_loss"])


def test_missing_data_are_one_clear_line(tmp_path):
    with pytest.raises(UserError, match=r"no Mini-ImageNet in .*train\.csv with images/, or train/<class>"):
        mini_imagenet.load(tmp_path, "train")


def test_a_table_without_its_columns_is_refused(tmp_path):
    in_tables(tmp_path)
    table = tmp_path / "mini-imagenet" / "train.csv"
    table.write_text(table.read_text().replace("filename", "file"))
    with pytest.raises(UserError, match=r"expected the columns filename and label, got \['file', 'label'\]"):
        mini_imagenet.load(tmp_path, "train")


def test_an_image_that_cannot_be_read_is_named_and_nothing_half_made_is_left(tmp_path):
    in_folders(tmp_path)
    bad = next((tmp_path / "mini-imagenet" / "train").rglob("*.png"))
    bad.write_bytes(b"no picture")
    with pytest.raises(UserError, match=f"{bad.name} cannot be read"):
        mini_imagenet.load(tmp_path, "train")
    assert list((tmp_path / "mini-imagenet").glob("*.npy*")) == []
    assert list((tmp_path / "mini-imagenet").glob(".*")) == []


def test_the_array_takes_its_name_after_its_index(tmp_path):
    in_folders(tmp_path)
    folder = tmp_path / "mini-imagenet"
    (folder / "train84.json").mkdir()  # so that no index can be put there
    with pytest.raises(UserError, match=r"cannot write .*train84\.npy"):
        mini_imagenet.load(tmp_path, "train")
    assert list(folder.glob("*.npy")) == [] and list(folder.glob(".*")) == []


def test_more_ways_or_shots_than_there_are_is_refused(tmp_path):
    in_folders(tmp_path)
    base = {"preset": "reptile-mini-imagenet-5way-1shot"}
    for fields, message in (
        ({"task": {"ways": 7}}, r"task\.ways: expected at most 6"),
        ({"inner": {"shots": 5}}, r"inner\.shots: a train class of Mini-ImageNet has 4 images"),
    ):
        given = experiments.merged(base, {"task": {"data_root": str(tmp_path)}, "inner": {"shots": 2}})
        with pytest.raises(UserError, match=message):
            make_distribution(experiments.build(experiments.merged(given, fields)))
