"""Image sets: Fashion-MNIST in IDX files, CIFAR-10 in its binary version, folders of images. Nothing is unpickled."""

from __future__ import annotations

import gzip
import io
import math
import os
import struct
import tarfile
import zlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from evonas.core import DataError, RecipeError
from evonas.task.data import (
    MAX_BYTES,
    Array,
    Form,
    Origin,
    Rows,
    Source,
    TaskShape,
    class_names,
    existing,
    filled,
    numbered,
    refuse_large,
    rows,
    unreadable,
)  # fmt: skip
from evonas.task.table import npz_array, npz_names, npz_source

if TYPE_CHECKING:
    from evonas.task import Cifar10Settings, FashionMnistSettings, ImageFolderSettings

__all__ = ["KNOWN", "READERS", "read_idx"]

FASHION = TaskShape(
    (1, 28, 28), 10, "classification",
    ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)  # fmt: skip
CIFAR = TaskShape(
    (3, 32, 32), 10, "classification",
    ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
)  # fmt: skip
KNOWN = {"fashion-mnist": FASHION, "cifar-10": CIFAR}


def _download(url: str, checksum: str, folder: str, cure: str) -> Path:
    """The file in the user's cache, downloaded once; its checksum is verified at every call."""
    import pooch

    name = url.rsplit("/", 1)[1]
    try:
        loader = pooch.HTTPDownloader(timeout=30)
        path = pooch.retrieve(url, checksum, fname=name, path=pooch.os_cache("evonas") / folder, downloader=loader)
    except Exception as error:  # pooch, requests and urllib3 each raise families of their own
        fault = f"{type(error).__name__}: {str(error)[:160]}"
        raise DataError(f"{name} could not be downloaded from {url}: {fault}\n{cure}") from None
    return Path(path)


def _named_in_environment(variable: str) -> Path | None:
    return Path(place) if (place := os.environ.get(variable)) else None


# ------------------------------------------------------------------------------------------------------------- IDX

_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: Path, max_bytes: int = MAX_BYTES) -> Array:
    """The array of an IDX file, plain or gzipped, as described on the page of MNIST (LeCun, Cortes, Burges).

    Raises DataError for a wrong magic number, a size beyond `max_bytes`, and contents cut off or longer than the header
    says."""
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
        opener: Callable[..., Any] = gzip.open if zipped else open
        with opener(path, "rb") as file:
            return _idx_array(file, str(path), max_bytes)
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(str(path), error) from None


def _idx_array(file: IO[bytes], name: str, max_bytes: int) -> Array:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _IDX_TYPES or not 1 <= magic[3] <= 4:
        begin = magic.hex(" ") or "nothing"
        raise DataError(f"{name} is no IDX file, it begins with {begin}, not 00 00 <type> <dimensions>: get it again")
    header = file.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise DataError(f"{name} is cut off in its header: get the file again")
    shape, dtype = struct.unpack(f">{magic[3]}I", header), np.dtype(_IDX_TYPES[magic[2]])
    refuse_large(math.prod(shape) * dtype.itemsize, name, max_bytes)
    return filled(file, shape, dtype, name).astype(dtype.newbyteorder("="), copy=False)


# --------------------------------------------------------------------------------------------------- Fashion-MNIST

_FASHION_COMMIT = "b2617bb6d3ffa2e429640350f613e3291e10b141"
_FASHION_URL = f"https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/{_FASHION_COMMIT}/data/fashion"
_FASHION_FILES = {  # checksums as the data set's own README lists them
    "train-images-idx3-ubyte": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "md5:25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "md5:bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "md5:bb300cfdad3c16e7a12a480ee83cd310",
}
_FASHION_DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def _fashion(settings: FashionMnistSettings) -> Source:
    folder = _fashion_folder(settings.folder)
    return Source(_fashion_rows(folder, "train"), partial(_fashion_rows, folder, "t10k"))


def _fashion_folder(given: Path | None) -> Path:
    named = given or _named_in_environment("EVONAS_FASHION_MNIST")
    if named:
        return existing(named, "folder")
    if _FASHION_DEBIAN.is_dir():
        return _FASHION_DEBIAN
    cure = "apt-get install dataset-fashion-mnist, or set folder: to where the four IDX files lie"
    files = [_download(f"{_FASHION_URL}/{name}.gz", md5, "fashion-mnist", cure) for name, md5 in _FASHION_FILES.items()]
    return files[0].parent


def _fashion_rows(folder: Path, part: str) -> Rows:
    image_file, label_file = (_idx_path(folder, name) for name in _FASHION_FILES if name.startswith(part))
    images = read_idx(image_file)
    if images.dtype != np.uint8 or images.shape[1:] != FASHION.input[1:]:
        raise DataError(f"{image_file} holds {images.dtype} {images.shape}, not uint8 (n, 28, 28): get the file again")
    form = Form("classification", FASHION.labels)
    return rows(images, read_idx(label_file), Origin(str(image_file)), Origin(str(label_file)), form)


def _idx_path(folder: Path, name: str) -> Path:
    zipped = folder / f"{name}.gz"
    return zipped if zipped.is_file() else existing(folder / name)


# -------------------------------------------------------------------------------------------------------- CIFAR-10

_CIFAR_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_CIFAR_SHA256 = "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
_CIFAR_TRAIN = tuple(f"data_batch_{k}.bin" for k in range(1, 6))
_CIFAR_TEST = ("test_batch.bin",)
_CIFAR_INNER = "cifar-10-batches-bin"
_CIFAR_RECORD = 1 + 3 * 32 * 32
_JPEG_KEYS = {"header", "scan", "offsets", "labels"}


def _cifar(settings: Cifar10Settings) -> Source:
    place = _cifar_place(settings)
    if place.suffix == ".npz":
        return _cifar_npz(place, settings.max_bytes)
    read = partial(_cifar_rows, place, max_bytes=settings.max_bytes)
    return Source(read(_CIFAR_TRAIN), partial(read, _CIFAR_TEST))


def _cifar_place(settings: Cifar10Settings) -> Path:
    """The folder of the binary files, their archive, or an .npz."""
    named = settings.file or settings.folder or _named_in_environment("EVONAS_CIFAR10")
    if named is None:
        cure = f"get {_CIFAR_URL} on another machine and set file: to it"
        return _download(_CIFAR_URL, _CIFAR_SHA256, "cifar-10", cure)
    if settings.file or named.is_file():
        return existing(named)
    folder = existing(named, "folder")
    candidates = [folder, folder / _CIFAR_INNER, folder / _CIFAR_URL.rsplit("/", 1)[1]]
    for place in candidates:
        if (place / _CIFAR_TRAIN[0]).is_file() or place.is_file():
            return place
    packed = sorted(folder.glob("*.npz"))
    jpeg = [path for path in packed if set(npz_names(path)) >= _JPEG_KEYS]
    if len(jpeg or packed) != 1:
        found = f"{len(packed)} .npz files" if packed else "neither .bin files, their tar.gz nor an .npz"
        raise RecipeError(f"cifar-10: {folder} holds {found}: set file: to the one that is meant")
    return (jpeg or packed)[0]


def _cifar_rows(place: Path, names: Sequence[str], max_bytes: int) -> Rows:
    """Rows of binary batches: records of one label byte and 3,072 pixel bytes, channels first."""
    read = _batches_of_archive if place.is_file() else _batches_of_folder
    batches = read(place, names, max_bytes)
    records = np.concatenate(batches)
    origin = Origin(str(place), _place_in(names, [len(batch) for batch in batches]))
    images = records[:, 1:].reshape(-1, *CIFAR.input)
    return rows(images, records[:, 0], origin, origin, Form("classification", CIFAR.labels, "nchw"))


def _place_in(names: Sequence[str], lengths: Sequence[int]) -> Callable[[int], str]:
    """Names the batch and the record of a row."""
    starts = [0, *accumulate(lengths)]

    def place(row: int) -> str:
        batch = bisect_right(starts, row) - 1
        return f"{names[batch]}, record {row - starts[batch]}"

    return place


def _batches_of_folder(folder: Path, names: Sequence[str], max_bytes: int) -> list[Array]:
    batches = []
    for path in (existing(folder / name) for name in names):
        try:
            with path.open("rb") as file:
                batches.append(_batch(file, path.stat().st_size, str(path), max_bytes))
        except OSError as error:
            raise unreadable(str(path), error) from None
    return batches


def _batches_of_archive(path: Path, names: Sequence[str], max_bytes: int) -> list[Array]:
    """Read member by member from the archive: nothing is unpacked to disk, so no member's path can matter."""
    batches: dict[str, Array] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.rsplit("/", 1)[-1]
                if name in names and member.isfile() and (file := archive.extractfile(member)):
                    batches[name] = _batch(file, member.size, f"{path}: {name}", max_bytes)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise unreadable(str(path), error) from None
    missing = [name for name in names if name not in batches]
    if missing:
        raise DataError(f"{path} has no {missing[0]}: it is not the binary version of CIFAR-10: get {_CIFAR_URL}")
    return [batches[name] for name in names]


def _batch(file: IO[bytes], size: int, name: str, max_bytes: int) -> Array:
    count, rest = divmod(size, _CIFAR_RECORD)
    if rest or not count:
        raise DataError(f"{name} has {size:,} bytes, no multiple of {_CIFAR_RECORD:,} (label and pixels): get it again")
    refuse_large(size, name, max_bytes)
    return filled(file, (count, _CIFAR_RECORD), np.dtype(np.uint8), name)


def _cifar_npz(path: Path, max_bytes: int) -> Source:
    form = Form("classification", CIFAR.labels)
    if set(npz_names(path)) >= _JPEG_KEYS:
        return _cifar_jpeg(path, max_bytes, form)
    source = npz_source(path, {}, form, max_bytes)
    if source.rows.shape != CIFAR:
        raise DataError(f"{path}: images of {source.rows.shape.input}, CIFAR-10 has {CIFAR.input}: take kind: npz")
    return source


def _cifar_jpeg(path: Path, max_bytes: int, form: Form) -> Source:
    """Image k is header + scan[offsets[k]:offsets[k+1]]; rows from `n_train` on are the test set."""
    load = partial(npz_array, path, max_bytes=max_bytes)
    header, scan, offsets, labels = (load(key) for key in ("header", "scan", "offsets", "labels"))
    bounds = offsets.astype(np.int64)
    if bounds.shape != (len(labels) + 1,) or (np.diff(bounds) < 0).any() or bounds[0] < 0 or bounds[-1] > len(scan):
        raise DataError(f"{path}: offsets do not mark {len(labels)} pieces of scan: get the file again")
    n_train = int(load("n_train").ravel()[0]) if "n_train" in npz_names(path) else len(labels)
    if not 0 < n_train <= len(labels):
        raise DataError(f"{path}: n_train is {n_train}, there are {len(labels)} images: get the file again")

    def part(first: int, last: int) -> Rows:
        images = np.empty((last - first, *CIFAR.input), np.uint8)
        for row in range(first, last):
            jpeg = header.tobytes() + scan[bounds[row] : bounds[row + 1]].tobytes()
            images[row - first] = _decoded(io.BytesIO(jpeg), f"{path}, image {row}", (32, 32), "RGB")
        origin = Origin(str(path), lambda row: f"image {first + row}")
        return rows(images, labels[first:last], origin, origin, form)

    test = partial(part, n_train, len(labels)) if n_train < len(labels) else None
    return Source(part(0, n_train), test)


# ----------------------------------------------------------------------------------------------- folders of images

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""Pillow knows more, and one of them (EPS) starts another program to be read."""
_MOST_PIXELS = 64_000_000
"""Of one image file, before it is resized: a small file can claim any size."""


def _image_folder(settings: ImageFolderSettings) -> Source:
    train = _class_folder_rows(existing(settings.folder, "folder"), settings, None)
    if settings.test_folder is None:
        return Source(train)
    test = existing(settings.test_folder, "folder")
    return Source(train, lambda: _class_folder_rows(test, settings, train))


def _class_folder_rows(folder: Path, settings: ImageFolderSettings, train: Rows | None) -> Rows:
    classes = class_names([entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."])
    if not classes:
        raise DataError(f"{folder} has no sub-folders: put the images of each class into a folder of its name")
    files = [path for name in classes for path in _images_in(folder / name)]
    origin = Origin(str(folder), lambda row: str(files[row].relative_to(folder)))
    labels = train.shape.labels if train else classes
    numbers, _ = numbered([path.parent.name for path in files], origin, labels)
    size = train.shape.input[1:] if train else settings.size
    pixels = _pixels(files, size or _size_of(files[0]), settings)
    return rows(pixels, numbers, origin, origin, Form("classification", labels, "nchw"))


def _images_in(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES and path.name[0] != ".")
    if not found:
        raise DataError(f"{folder} has no image ({' '.join(_SUFFIXES)}): add some or remove the folder")
    return found


def _pixels(files: Sequence[Path], size: tuple[int, ...], settings: ImageFolderSettings) -> Array:
    """uint8 (n, channels, height, width)."""
    mode, channels = ("L", 1) if settings.grayscale else ("RGB", 3)
    height, width = size
    shape = (len(files), channels, height, width)
    refuse_large(math.prod(shape), str(settings.folder), settings.max_bytes)
    pixels = np.empty(shape, np.uint8)
    for row, path in enumerate(files):
        pixels[row] = _decoded(path, str(path), (height, width), mode, resize=settings.size is not None)
    return pixels


def _size_of(path: Path) -> tuple[int, int]:
    from PIL import Image

    try:
        with Image.open(path, formats=_FORMATS) as image:
            return image.height, image.width
    except Exception as error:
        raise unreadable(str(path), error) from None


def _decoded(file: Path | IO[bytes], name: str, size: tuple[int, int], mode: str, resize: bool = False) -> Array:
    """One image as uint8 (channels, *size). Raises DataError naming it if it is damaged, huge or of another size."""
    from PIL import Image

    try:
        with Image.open(file, formats=_FORMATS) as image:
            if image.width * image.height > _MOST_PIXELS:
                pixels = image.width * image.height
                raise DataError(f"{name} has {pixels:,} pixels, more than {_MOST_PIXELS:,}: shrink it")
            if (image.height, image.width) != size and not resize:
                raise DataError(
                    f"{name} is {image.height} x {image.width}, others {size[0]} x {size[1]} (height x width): "
                    "set size: [height, width]"
                )
            converted: Any = image.convert(mode)
            if resize:
                converted = converted.resize(size[::-1], Image.Resampling.BILINEAR)
            array = np.asarray(converted)
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
        raise unreadable(name, error) from None
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


READERS: dict[str, Callable[[Any], Source]] = {
    "fashion-mnist": _fashion,
    "cifar-10": _cifar,
    "image-folder": _image_folder,
}
