"""IDX, Fashion-MNIST, CIFAR-10 and folders of images: known facts of the real sets, and damaged files."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evonas import task
from evonas.core import DataError, EvonasError, RecipeError
from evonas.task import Cifar10Settings, FashionMnistSettings, ImageFolderSettings
from evonas.task.data import Array, SplitTask, Task
from evonas.task.images import CIFAR, FASHION, read_idx

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
RNG = np.random.default_rng(0)


def build(settings: Any) -> SplitTask:
    made = task.build(settings)
    assert isinstance(made, SplitTask)
    return made


def idx(values: Array, code: int = 8, big: str = ">u1") -> bytes:
    return (
        bytes([0, 0, code, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.astype(big).tobytes()
    )


# ------------------------------------------------------------------------------------------------------------- IDX


@pytest.mark.parametrize(
    ("code", "big"), [(0x08, ">u1"), (0x09, ">i1"), (0x0B, ">i2"), (0x0C, ">i4"), (0x0D, ">f4"), (0x0E, ">f8")]
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_of_every_type_plain_and_gzipped(
    tmp_path: Path, code: int, big: str, pack: Callable[[bytes], bytes]
) -> None:
    values = np.arange(24).reshape(2, 3, 4)
    (tmp_path / "a").write_bytes(pack(idx(values, code, big)))
    read = read_idx(tmp_path / "a")
    assert read.dtype == np.dtype(big).newbyteorder("=") and read.flags.writeable
    np.testing.assert_array_equal(read, values)


IDX = idx(np.arange(12).reshape(3, 4))
DAMAGED_IDX = {
    "empty": (b"", r"is no IDX file, it begins with nothing"),
    "other format": (b"PK\3\4 something", r"begins with 50 4b 03 04, not 00 00 <type> <dimensions>: get it again"),
    "unknown type": (b"\0\0\x0a\2" + IDX[4:], r"is no IDX file"),
    "header cut": (IDX[:9], r"is cut off in its header"),
    "data cut": (IDX[:-1], r"is cut off: 11 of 12 bytes are there"),
    "no data": (IDX[:12], r"is cut off: 0 of 12 bytes"),
    "too long": (IDX + b"\0", r"is longer than the 12 bytes of its array"),
    "shape bomb": (b"\0\0\x0e\4" + b"\xff" * 16 + b"\0" * 8, r"would take 2,7\d\d,.* raise max_bytes"),
    "gzip cut": (gzip.compress(IDX)[:-9], r"a cannot be read: EOFError"),
    "gzip flipped": (gzip.compress(IDX)[:-8] + b"\0\0\0\0" + gzip.compress(IDX)[-4:], r"BadGzipFile"),
}


@pytest.mark.parametrize("case", DAMAGED_IDX)
def test_a_damaged_idx_file_is_named(tmp_path: Path, case: str) -> None:
    content, message = DAMAGED_IDX[case]
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(tmp_path / "a")
    assert str(tmp_path / "a") in str(caught.value)


def test_every_cut_of_an_idx_file_is_noticed(tmp_path: Path) -> None:
    for content in (IDX, gzip.compress(IDX)):
        for length in range(len(content)):
            (tmp_path / "a").write_bytes(content[:length])
            with pytest.raises(DataError):
                read_idx(tmp_path / "a")


# --------------------------------------------------------------------------------------------------- Fashion-MNIST


@pytest.fixture(scope="module")
def fashion() -> SplitTask:
    if not DEBIAN.is_dir():
        pytest.skip("no Fashion-MNIST: apt-get install dataset-fashion-mnist")
    return build(FashionMnistSettings(folder=DEBIAN))


def test_fashion_mnist_has_its_known_sizes_and_classes(fashion: SplitTask) -> None:
    assert fashion.sizes(0) == {"train": 54_000, "validation": 6_000, "test": 10_000}
    data = fashion.load(0)
    assert data.shape == fashion.shape() == FASHION and data.x_train.dtype == np.uint8
    assert np.bincount(data.y_train).tolist() == [5_400] * 10 and np.bincount(data.y_valid).tolist() == [600] * 10
    x, y = fashion.load_test(0)
    assert x.shape == (10_000, 1, 28, 28) and np.bincount(y).tolist() == [1_000] * 10
    assert y[:5].tolist() == [9, 2, 1, 1, 6]
    np.testing.assert_allclose(data.mean / 255, 0.2860, atol=1e-3)  # the published moments of the training images
    np.testing.assert_allclose(data.std / 255, 0.3530, atol=1e-3)


def test_fashion_mnists_search_sees_no_test_row(fashion: SplitTask) -> None:
    data, (x, _) = fashion.load(0), fashion.load_test(0)
    seen = {hashlib.sha256(row.tobytes()).digest() for part in (data.x_train, data.x_valid) for row in part}
    held = [hashlib.sha256(row.tobytes()).digest() for row in x]
    train, valid, test = fashion._parts(0)
    assert len(test) == 0 and sorted([*train, *valid]) == list(range(60_000))
    assert sum(row in seen for row in held) == 0


def fashion_folder(folder: Path, **changed: bytes) -> Path:
    for part in ("train", "t10k"):
        files = {
            f"{part}-images-idx3-ubyte": idx(RNG.integers(0, 256, (40, 28, 28))),
            f"{part}-labels-idx1-ubyte": idx(np.arange(40) % 10),
        }
        for name, content in files.items():
            (folder / name).write_bytes(changed.get(name.partition("-idx")[0].replace("-", "_"), content))
    return folder


FASHION_FAULTS = {
    "label out of range": (
        {"train_labels": idx(np.arange(40) % 11)},
        r"train-labels\S+, row 10: label 10 is out of range 0\.\.9",
    ),
    "fewer labels": (
        {"train_labels": idx(np.arange(30) % 10)},
        r"train-images\S+ has 40 rows, \S+train-labels\S+ has 30",
    ),
    "other images": ({"train_images": idx(np.zeros((40, 8, 8)))}, r"holds uint8 \(40, 8, 8\), not uint8 \(n, 28, 28\)"),
    "test images cut": (
        {"t10k_images": idx(np.zeros((40, 28, 28)))[:-1]},
        r"t10k-images\S+ is cut off: 31,359 of 31,360",
    ),
}


@pytest.mark.parametrize("case", FASHION_FAULTS)
def test_faults_of_a_fashion_folder_are_found_before_the_search(tmp_path: Path, case: str) -> None:
    changed, message = FASHION_FAULTS[case]
    made = build(FashionMnistSettings(folder=fashion_folder(tmp_path, **changed), validation=10))
    with pytest.raises(DataError, match=message):
        made.sizes(0)


def test_a_missing_idx_file_is_named_with_its_neighbours(tmp_path: Path) -> None:
    fashion_folder(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").rename(tmp_path / "train-labels.idx1-ubyte")
    with pytest.raises(
        RecipeError, match=r"no file 'train-labels-idx1-ubyte' in .*did you mean 'train-labels.idx1-ubyte'"
    ):
        build(FashionMnistSettings(folder=tmp_path)).sizes(0)


def test_the_folder_can_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVONAS_FASHION_MNIST", str(fashion_folder(tmp_path)))
    assert build(FashionMnistSettings(validation=10)).sizes(0) == {"train": 30, "validation": 10, "test": 40}


def offline(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    import pooch

    def refuse(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(pooch, "retrieve", refuse)
    monkeypatch.delenv("EVONAS_FASHION_MNIST", raising=False)
    monkeypatch.delenv("EVONAS_CIFAR10", raising=False)
    monkeypatch.setattr("evonas.task.images._FASHION_DEBIAN", Path("/nowhere"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            FashionMnistSettings(),
            r"train-images-idx3-ubyte.gz could not be downloaded from https://.*: ConnectionError: no "
            r"route\napt-get install dataset-fashion-mnist, or set folder:",
        ),
        (Cifar10Settings(), r"cifar-10-binary.tar.gz could not be downloaded from https://.*\nget https://.*set file:"),
    ],
)
def test_without_a_network_the_message_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, settings: Any, message: str
) -> None:
    offline(monkeypatch, ConnectionError("no route"))
    with pytest.raises(DataError, match=message):
        build(settings).load(0)


def test_a_download_is_checked_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pooch

    fetched = []

    def deliver(url: str, output_file: Any, _: object) -> None:
        fetched.append(url)
        Path(getattr(output_file, "name", output_file)).write_bytes(b"not the set")

    monkeypatch.setattr(pooch, "HTTPDownloader", lambda **_: deliver)
    monkeypatch.setattr(pooch, "os_cache", lambda _: tmp_path)
    monkeypatch.setattr("evonas.task.images._FASHION_DEBIAN", Path("/nowhere"))
    monkeypatch.delenv("EVONAS_FASHION_MNIST", raising=False)
    with pytest.raises(DataError, match=r"train-images\S+ could not be downloaded .*(md5|hash)"):
        build(FashionMnistSettings()).load(0)
    digest = hashlib.md5(b"not the set").hexdigest()
    monkeypatch.setattr("evonas.task.images._FASHION_FILES", {"train-images-idx3-ubyte": f"md5:{digest}"})
    from evonas.task.images import _fashion_folder

    assert _fashion_folder(None) == _fashion_folder(None) == tmp_path / "fashion-mnist"
    assert len(fetched) == 2  # one refused, one kept and not fetched again


# -------------------------------------------------------------------------------------------------------- CIFAR-10

BATCHES = [f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin"]


def records(count: int = 20) -> Array:
    return np.hstack([(np.arange(count) % 10)[:, None], RNG.integers(0, 256, (count, 3072))]).astype(np.uint8)


def cifar_folder(folder: Path) -> dict[str, Array]:
    folder.mkdir(exist_ok=True)
    batches = {name: records() for name in BATCHES}
    for name, batch in batches.items():
        (folder / name).write_bytes(batch.tobytes())
    return batches


def pack(folder: Path, archive: Path) -> Path:
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, "cifar-10-batches-bin")
    return archive


def test_cifar_10_from_folder_inner_folder_and_archive_is_the_same(tmp_path: Path) -> None:
    inner = tmp_path / "cifar-10-batches-bin"
    batches = cifar_folder(inner)
    archive = pack(inner, tmp_path / "any.tar.gz")
    tasks = [build(Cifar10Settings(**place)) for place in ({"folder": inner}, {"folder": tmp_path}, {"file": archive})]
    x, y = tasks[0].load_test(0)
    np.testing.assert_array_equal(x, batches["test_batch.bin"][:, 1:].reshape(-1, 3, 32, 32))
    np.testing.assert_array_equal(y, batches["test_batch.bin"][:, 0])
    assert x[0, 2, 5, 7] == batches["test_batch.bin"][0, 1 + 2 * 1024 + 5 * 32 + 7]
    for other in tasks:
        assert other.sizes(0) == {"train": 90, "validation": 10, "test": 20} and other.shape() == CIFAR
        np.testing.assert_array_equal(other.load(1).x_train, tasks[0].load(1).x_train)
        np.testing.assert_array_equal(other.load_test(1)[0], x)


def cut(folder: Path) -> Path:
    path = folder / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1])
    return folder


def mislabelled(folder: Path) -> Path:
    path = folder / "data_batch_2.bin"
    content = bytearray(path.read_bytes())
    content[3073 * 4] = 10
    path.write_bytes(content)
    return folder


def without_batch(folder: Path) -> Path:
    (folder / "data_batch_5.bin").unlink()
    return folder


def cut_archive(folder: Path) -> Path:
    archive = pack(folder, folder.parent / "c.tar.gz")
    archive.write_bytes(archive.read_bytes()[:100_000])
    return archive


def foreign_archive(folder: Path) -> Path:
    for name in BATCHES[1:]:
        (folder / name).unlink()
    return pack(folder, folder.parent / "c.tar.gz")


def no_archive(folder: Path) -> Path:
    (folder.parent / "c.tar.gz").write_bytes(b"hello")
    return folder.parent / "c.tar.gz"


def only_text(folder: Path) -> Path:
    (folder.parent / "empty").mkdir()
    return folder.parent / "empty"


@pytest.mark.parametrize(
    ("damage", "kind", "message"),
    [
        (cut, DataError, r"data_batch_3\.bin has 61,459 bytes, no multiple of 3,073"),
        (mislabelled, DataError, r"data_batch_2\.bin, record 4: label 10 is out of range 0\.\.9"),
        (without_batch, RecipeError, r"no file 'data_batch_5\.bin' in .*did you mean 'data_batch_4\.bin'"),
        (cut_archive, DataError, r"c\.tar\.gz cannot be read: "),
        (foreign_archive, DataError, r"c\.tar\.gz has no data_batch_2\.bin: it is not the binary version"),
        (no_archive, DataError, r"c\.tar\.gz cannot be read: ReadError"),
        (only_text, RecipeError, r"empty holds neither \.bin files, their tar\.gz nor an \.npz: set file:"),
    ],
)
def test_a_damaged_cifar_10_is_refused(
    tmp_path: Path, damage: Callable[[Path], Path], kind: type[EvonasError], message: str
) -> None:
    cifar_folder(tmp_path / "bin")
    place = damage(tmp_path / "bin")
    settings = Cifar10Settings(file=place) if place.is_file() else Cifar10Settings(folder=place)
    with pytest.raises(kind, match=message):
        build(settings).sizes(0)


def test_cifar_10_takes_one_place_only(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="folder and file are both given"):
        Cifar10Settings(folder=tmp_path, file=tmp_path / "x")


def jpeg_set(path: Path, count: int = 40, **changed: Any) -> Path:
    """A file in the form of shared JPEG sets: one header for all, scans, offsets."""
    pieces = []
    for _ in range(count):
        stream = io.BytesIO()
        Image.fromarray(RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(stream, "JPEG", quality=75)
        pieces.append(stream.getvalue())
    start = pieces[0].index(b"\xff\xda")  # start of scan: everything before is equal in all of them
    assert all(piece[:start] == pieces[0][:start] for piece in pieces)
    scans = [np.frombuffer(piece[start:], np.uint8) for piece in pieces]
    fields = {
        "header": np.frombuffer(pieces[0][:start], np.uint8),
        "scan": np.concatenate(scans),
        "offsets": np.cumsum([0, *map(len, scans)]).astype(np.uint32),
        "labels": (np.arange(count) % 10).astype(np.uint8),
        "n_train": np.int64(count - 10),
    }
    np.savez(path, **{**fields, **changed})
    return path


def test_cifar_10_as_jpeg(tmp_path: Path) -> None:
    path = jpeg_set(tmp_path / "c.npz")
    made = build(Cifar10Settings(folder=tmp_path, validation=10))
    assert made.sizes(0) == {"train": 20, "validation": 10, "test": 10}
    with np.load(path) as fields:
        stream = fields["header"].tobytes() + fields["scan"][fields["offsets"][30] :].tobytes()
    with Image.open(io.BytesIO(stream)) as image:
        np.testing.assert_array_equal(made.load_test(0)[0][0], np.asarray(image).transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"offsets": np.arange(5)}, r"offsets do not mark 40 pieces of scan"),
        ({"offsets": np.arange(41)[::-1].copy()}, r"offsets do not mark"),
        ({"offsets": np.r_[np.arange(40), 10**8]}, r"offsets do not mark"),
        ({"offsets": np.zeros(41, int)}, r"c\.npz, image 0 cannot be read: "),
        ({"header": np.zeros(10, np.uint8)}, r"c\.npz, image 0 cannot be read: UnidentifiedImageError"),
        ({"n_train": np.int64(50)}, r"n_train is 50, there are 40 images"),
        ({"labels": np.full(40, 11, np.uint8)}, r"c\.npz, image 0: label 11 is out of range 0\.\.9"),
    ],
)
def test_a_damaged_jpeg_set_names_the_image(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        build(Cifar10Settings(file=jpeg_set(tmp_path / "c.npz", **changed))).load(0)


@pytest.mark.slow
def test_the_shared_jpeg_set(shared_data: Path) -> None:
    made = build(Cifar10Settings(folder=shared_data / "cifar10"))
    x, y = made.load_test(0)  # decodes the training part, too
    assert x.shape == (10_000, 3, 32, 32) and np.bincount(y).tolist() == [1_000] * 10
    data = made.load(0)
    assert np.bincount(data.y_train).tolist() == [4_500] * 10 and np.bincount(data.y_valid).tolist() == [500] * 10
    np.testing.assert_allclose(data.mean / 255, [0.4913, 0.4821, 0.4465], atol=2e-3)
    np.testing.assert_allclose(data.std / 255, [0.2452, 0.2428, 0.2606], atol=2e-3)


def test_lossless_images_channels_last(shared_data: Path) -> None:
    path = shared_data / "cifar10" / "cifar10_lossless_first4000.npz"
    made = build(Cifar10Settings(file=path))
    assert made.sizes(0) == {"train": 2_880, "validation": 320, "test": 800} and made.shape() == CIFAR
    with np.load(path) as fields:
        x, y = fields["x"], fields["y"]
    source = made._source.rows
    np.testing.assert_array_equal(source.x[17], x[17].transpose(2, 0, 1))
    assert source.y[:10].tolist() == y[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]


def test_an_npz_of_other_images_is_not_cifar_10(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((30, 3, 8, 8), np.uint8), y=np.arange(30) % 10)
    with pytest.raises(DataError, match=r"a\.npz: images of \(3, 8, 8\), CIFAR-10 has \(3, 32, 32\): take kind: npz"):
        build(Cifar10Settings(file=tmp_path / "a.npz")).load(0)


# ----------------------------------------------------------------------------------------------- folders of images


def picture(path: Path, height: int = 6, width: int = 4, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def pictures(folder: Path, count: int = 6) -> Path:
    for name in ("10", "9"):
        for k in range(count):
            picture(folder / name / f"{k}.png")
    return folder


def test_a_folder_of_images(tmp_path: Path) -> None:
    pictures(tmp_path)
    (tmp_path / "9" / "notes.txt").write_text("no image")
    (tmp_path / ".hidden").mkdir()
    made = build(ImageFolderSettings(folder=tmp_path))
    assert made.shape().input == (3, 6, 4) and made.shape().labels == ("9", "10")
    with Image.open(tmp_path / "9" / "0.png") as image:
        np.testing.assert_array_equal(made._source.rows.x[0], np.asarray(image).transpose(2, 0, 1))
    assert made._source.rows.y.tolist() == [0] * 6 + [1] * 6


def test_images_are_resized_and_greyed(tmp_path: Path) -> None:
    pictures(tmp_path)
    picture(tmp_path / "9" / "large.jpg", 30, 20)
    picture(tmp_path / "9" / "palette.gif", 5, 5, "P")
    made = build(ImageFolderSettings(folder=tmp_path, size=(8, 10), grayscale=True))
    assert made.shape().input == (1, 8, 10) and made.load(0).x_train.dtype == np.uint8


def test_a_test_folder_keeps_the_classes(tmp_path: Path) -> None:
    settings = ImageFolderSettings(folder=pictures(tmp_path / "a"), test_folder=pictures(tmp_path / "b", 3))
    assert build(settings).sizes(0) == {"train": 10, "validation": 2, "test": 6}
    picture(tmp_path / "b" / "11" / "0.png")
    with pytest.raises(DataError, match=r"b, 11/0\.png: class '11' is not in the training set; known: 9, 10"):
        build(settings).sizes(0)


def broken_image(folder: Path) -> None:
    path = folder / "9" / "3.png"
    path.write_bytes(path.read_bytes()[:60])


def no_image(folder: Path) -> None:
    (folder / "9" / "3.jpg").write_text("<html>")


def other_size(folder: Path) -> None:
    picture(folder / "9" / "3.png", 7, 4)


def empty_class(folder: Path) -> None:
    (folder / "empty").mkdir()


def postscript(folder: Path) -> None:
    (folder / "9" / "0.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 6\n")


def pixel_bomb(folder: Path) -> None:
    stream = io.BytesIO()
    Image.new("1", (9_000, 9_000)).save(stream, "PNG")
    (folder / "9" / "3.png").write_bytes(stream.getvalue())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (broken_image, r"9/3\.png cannot be read: "),
        (no_image, r"9/3\.jpg cannot be read: UnidentifiedImageError"),
        (other_size, r"9/3\.png is 7 x 4, others 6 x 4 \(height x width\): set size: \[height, width\]"),
        (empty_class, r"empty has no image"),
        (postscript, r"9/0\.png cannot be read: UnidentifiedImageError"),
        (pixel_bomb, r"9/3\.png has 81,000,000 pixels, more than 64,000,000: shrink it"),
    ],
)
def test_a_damaged_image_is_named(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(pictures(tmp_path))
    with pytest.raises(DataError, match=message):
        build(ImageFolderSettings(folder=tmp_path)).load(0)


def test_folders_that_are_not_there_or_hold_no_class(tmp_path: Path) -> None:
    made: Task = build(ImageFolderSettings(folder=tmp_path))
    with pytest.raises(DataError, match=r"has no sub-folders: put the images of each class"):
        made.shape()
    with pytest.raises(RecipeError, match=r"no folder 'x'"):
        build(ImageFolderSettings(folder=tmp_path / "x")).shape()
    pictures(tmp_path)
    with pytest.raises(DataError, match=r"would take 864 bytes, more than 863"):
        build(ImageFolderSettings(folder=tmp_path, max_bytes=863)).shape()
