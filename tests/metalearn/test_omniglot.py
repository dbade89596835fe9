"""Omniglot as it is published and as it is kept: the same pixels, or a refusal."""

import random
import shutil
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from quadriga.metalearn import data_root, omniglot
from quadriga.platform.errors import UserError


@pytest.fixture(scope="module")
def cache(shared_data):
    path = shared_data / "omniglot" / "omniglot28.parquet"
    if not path.is_file():
        pytest.skip(f"no {path}")
    return path


@pytest.fixture(scope="module")
def drawings(cache):
    return omniglot.load(cache.parent.parent)


def test_there_are_twenty_drawings_of_every_character(drawings):
    assert drawings.shape == (1623, 20, 28, 28, 1)
    assert 1 - drawings.mean() == pytest.approx(0.0805, abs=5e-4)  # ink


def test_the_split_is_that_of_the_published_code(cache):
    rows = pq.read_table(cache, columns=["class_id", "train_seed0"]).to_pydict()
    published = {character for character, train in zip(rows["class_id"], rows["train_seed0"], strict=True) if train}
    train, test = omniglot.split(1623, 1200, 0)
    assert set(train) == published
    assert sorted(train + test) == list(range(1623))


def test_splitting_leaves_the_global_generator_alone():
    random.seed(5)
    expected = random.random()
    random.seed(5)
    omniglot.split(1623, 1200, 0)
    assert random.random() == expected


def published(folder, cache):
    """The original 105x105 images as PNG files in the two folders that the zips unpack to."""
    original = pq.read_table(cache).to_pydict()
    for number, bits in enumerate(pq.read_table(cache.with_name("omniglot105_bits.parquet"))["bits105"].to_pylist()):
        pixels = np.unpackbits(np.frombuffer(bits, np.uint8))[: 105 * 105].reshape(105, 105)
        where = folder / f"images_{original['set'][number]}" / original["alphabet"][number]
        where /= f"character{original['character'][number]:02d}"
        where.mkdir(parents=True, exist_ok=True)
        # The other way round: the order of files must not matter.
        image = Image.fromarray(pixels.astype(bool))
        image.save(where / f"{original['class_id'][number]:04d}_{20 - original['slot'][number]:02d}.png")


@pytest.fixture(scope="module")
def unpacked(cache, tmp_path_factory):
    if not cache.with_name("omniglot105_bits.parquet").is_file():
        pytest.skip("no original images")
    folder = tmp_path_factory.mktemp("published") / "omniglot"
    published(folder, cache)
    return folder


@pytest.mark.slow
def test_published_folders_give_the_same_pixels_and_are_kept(unpacked, drawings):
    np.testing.assert_array_equal(omniglot.load(unpacked.parent), drawings)
    for name in omniglot.SETS:
        shutil.move(unpacked / name, unpacked.parent / name)
    np.testing.assert_array_equal(omniglot.load(unpacked.parent), drawings)
    assert (unpacked / omniglot.CACHE).stat().st_size < 1_000_000


@pytest.mark.slow
def test_published_zips_give_the_same_pixels(cache, drawings, tmp_path, monkeypatch):
    folder = tmp_path / "omniglot"
    published(tmp_path, cache)
    folder.mkdir()
    for name in omniglot.SETS:
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            for file in (tmp_path / name).rglob("*.png"):
                archive.write(file, file.relative_to(tmp_path))
    with pytest.raises(UserError, match=r"images_background\.zip is corrupt: its MD5 is"):
        omniglot.load(tmp_path)
    # Zips made here hold the same images and have other checksums.
    monkeypatch.setattr(omniglot, "MD5", {name: data_root.md5(folder / f"{name}.zip") for name in omniglot.SETS})
    np.testing.assert_array_equal(omniglot.load(tmp_path), drawings)


def test_missing_data_are_one_clear_line(tmp_path):
    with pytest.raises(UserError, match=r"no Omniglot in .*--data-root or QUADRIGA_DATA.*meta download omniglot"):
        omniglot.load(tmp_path)


def test_a_corrupt_archive_is_refused(tmp_path):
    (tmp_path / "omniglot").mkdir()
    (tmp_path / "omniglot" / "images_background.zip").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(UserError, match=r"images_background\.zip is corrupt: its MD5"):
        omniglot.load(tmp_path)


def test_a_corrupt_copy_is_refused(cache, tmp_path):
    copy = tmp_path / "omniglot" / omniglot.CACHE
    copy.parent.mkdir()
    copy.write_bytes(cache.read_bytes()[:1000])
    with pytest.raises(UserError, match="is corrupt"):
        omniglot.load(tmp_path)


def test_other_pixels_are_refused(cache, tmp_path):
    copy = tmp_path / "omniglot" / omniglot.CACHE
    copy.parent.mkdir()
    table = pq.read_table(cache)
    bits = table.column("bits28").to_pylist()
    bits[7] = bytes([bits[7][0] ^ 1]) + bits[7][1:]
    column = table.schema.get_field_index("bits28")
    pq.write_table(table.set_column(column, "bits28", pa.array(bits, pa.binary(98))), copy)
    with pytest.raises(UserError, match="does not hold the published drawings"):
        omniglot.load(tmp_path)


def test_too_few_drawings_are_refused(tmp_path):
    for name in omniglot.SETS:
        folder = tmp_path / "omniglot" / name / "Runes" / "character01"
        folder.mkdir(parents=True)
        Image.new("1", (105, 105)).save(folder / "0001_01.png")
    with pytest.raises(UserError, match=r"found 1 characters, 1 of them without 20 drawings"):
        omniglot.load(tmp_path)


def test_the_data_root_is_the_flag_s_then_the_variable_s(monkeypatch, tmp_path):
    monkeypatch.setenv("QUADRIGA_DATA", str(tmp_path / "variable"))
    assert data_root.resolve(str(tmp_path / "flag")) == tmp_path / "flag"
    assert data_root.resolve(None) == tmp_path / "variable"


def test_training_tasks_turn_characters_and_test_tasks_do_not(cache, drawings):
    tasks = omniglot.tasks(cache.parent.parent, ways=20)
    train, test = (set(part) for part in omniglot.split(1623, 1200, 0))
    known = {drawings[c, d].tobytes(): c for c in range(1623) for d in range(20)}
    task = tasks.sample(np.random.default_rng(0), "test", 1, 1)
    assert {known[image.tobytes()] for image in task.support_inputs} <= test
    turned = 0
    task = tasks.sample(np.random.default_rng(0), "train", 1, 1)
    for image in task.support_inputs:
        ways = [known.get(np.rot90(image, -k).tobytes()) for k in range(4)]
        assert any(character in train for character in ways if character is not None)
        turned += ways[0] is None
    assert turned > 5
