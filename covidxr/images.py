"""Any image file → one uint8 grey array, or a `RejectedImage` that says why."""

import ctypes
import os
import stat
import struct
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Lock, RLock

import numpy as np
from PIL import ExifTags, Image, ImageChops
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION, TILELENGTH, TILEWIDTH

from covidxr import InputError

MIN_SIDE = 64  # pixels
# What a decoder can be made to hold: below 1 GB with these three, at up to 16 bytes a pixel.
MAX_MEGAPIXELS = 70
MAX_MEGAPIXELS_WEBP = 50
MAX_BYTES = 400 * 2**20
LARGE_PIXELS, LARGE_BYTES = 20_000_000, 2**26  # from here on one file at a time, not one a thread
MAX_SCANS = 500  # a progressive JPEG is worked through once for each
MIN_CONTRAST = 8  # grey levels between the 1st and the 99th percentile
CLEAR_COLOUR = 40  # max - min of R, G, B from which a pixel counts as clearly coloured
MAX_COLOURED = 0.10  # share of such pixels: leaves room for a tint and for annotations

EXPECTED = "expected PNG, JPEG, TIFF, WebP or DICOM"
TOO_LARGE = "more than {} megapixels"
SIGNATURES = (  # DICOM first: its free preamble may hold the signature of another format
    (128, b"DICM", "DICOM"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    (8, b"WEBP", "WEBP"),
)
UNSUPPORTED = ((b"GIF8", "GIF"), (b"BM", "BMP"), (b"\0\0\0\x0cjP  ", "JPEG 2000"))
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
FLAT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
ORIENTATIONS = {  # EXIF tag 274 → how to bring the stored rows upright
    2: np.fliplr,
    3: lambda grey: np.rot90(grey, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda grey: np.rot90(grey, -1),
    7: lambda grey: np.rot90(grey, 2).T,
    8: np.rot90,
}
START_OF_FRAME = {*range(0xFFC0, 0xFFD0), 0xFFF7} - {0xFFC4, 0xFFC8, 0xFFCC}  # JPEG, JPEG-LS
DICOM_TAGS = [  # nothing else is parsed, so no name, id or date is ever held
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
]


class RejectedImage(InputError):
    """A file that is no usable radiograph.

    Attributes:
        path: the file, as it was given.
        reason: one line without the path.
    """

    def __init__(self, path: str | Path, reason: str):
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class _Silence:
    """Ignores warnings while at least one thread reads an image.

    `warnings.catch_warnings` is not made for threads: entered and left by several in turn, it can
    leave every later warning of the process ignored.
    """

    def __init__(self) -> None:
        self.lock, self.readers = Lock(), 0

    def __enter__(self) -> None:
        with self.lock:
            if self.readers == 0:
                self.caught = warnings.catch_warnings()
                self.caught.__enter__()
                warnings.simplefilter("ignore")
            self.readers += 1

    def __exit__(self, *error) -> None:
        with self.lock:
            self.readers -= 1
            if self.readers == 0:
                self.caught.__exit__(*error)


SILENCE = _Silence()
LARGE = RLock()


@contextmanager
def _alone() -> Iterator[None]:
    """One large file at a time, and its memory given back: that of threads must not add up."""
    with LARGE:
        try:
            yield
        except Exception as error:
            traceback.clear_frames(error.__traceback__)  # they hold the pixels
            raise
        finally:
            if sys.platform == "linux":  # where each thread keeps what it has freed
                trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
                trim and trim(0)


def read_image(path: str | Path) -> np.ndarray:
    """Read a radiograph as 8-bit grey, bright where the body absorbs.

    The content decides the format, never the extension. 16-bit, 32-bit, float and DICOM values
    are mapped to 0..255 by their own minimum and maximum, after DICOM's rescale and VOI window.
    16-bit colour keeps its high byte, which is all that Pillow decodes. Transparency is laid on
    black, EXIF orientation is applied.

    Args:
        path: a PNG, JPEG, TIFF, WebP or DICOM file.

    Returns:
        uint8 array (H, W).

    Raises:
        RejectedImage: for any other file, with the reason.
    """
    kind, size = _detect_format(path)
    # damage and size are judged here, and raised
    with SILENCE, _alone() if size > LARGE_BYTES else nullcontext():
        try:
            grey = _read_dicom(path) if kind == "DICOM" else _read_raster(path, kind)
        except RejectedImage:
            raise
        except Image.DecompressionBombError as error:
            raise RejectedImage(path, TOO_LARGE.format(MAX_MEGAPIXELS)) from error
        except MemoryError as error:
            raise RejectedImage(path, "claims more memory than is available") from error
        except _damage_errors(kind) as error:
            if why := getattr(error, "strerror", None):  # the system's word, not the decoder's
                raise RejectedImage(path, f"cannot be opened: {why}") from error
            raise RejectedImage(path, f"damaged or truncated {kind} file") from error
    down, across = (1 + side // 512 for side in grey.shape)
    low, high = np.percentile(grey[::down, ::across], (1, 99))
    if high - low < MIN_CONTRAST:
        raise RejectedImage(path, "blank image: no contrast")
    return grey


def resize(grey: np.ndarray, size: int) -> np.ndarray:
    """Resize to a square, with antialiasing.

    The aspect ratio is squashed on purpose: the width of a padded border would tell a model which
    hospital the film comes from, and a crop would cut the periphery, where the disease is.

    Args:
        grey: uint8 array (H, W).
        size: side in pixels.

    Returns:
        uint8 array (size, size).
    """
    return np.array(Image.fromarray(grey).resize((size, size), Image.Resampling.BILINEAR))


def _detect_format(path: str | Path) -> tuple[str, int]:
    """Format by content, and size in bytes."""
    try:
        info = os.stat(path)
        head = _first_bytes(path) if stat.S_ISREG(info.st_mode) else b""  # a pipe would block
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        why = getattr(error, "strerror", None) or "not a valid path"
        raise RejectedImage(path, f"cannot be opened: {why}") from error
    if stat.S_ISDIR(info.st_mode):
        raise RejectedImage(path, "a folder, not a file")
    if not stat.S_ISREG(info.st_mode):
        raise RejectedImage(path, "not a regular file")
    if info.st_size == 0:
        raise RejectedImage(path, "empty file")
    if info.st_size > MAX_BYTES:
        raise RejectedImage(path, f"larger than {MAX_BYTES // 2**20} MB")
    for offset, signature, kind in SIGNATURES:
        if head.startswith(signature, offset):
            return kind, info.st_size
    for signature, kind in UNSUPPORTED:
        if head.startswith(signature):
            raise RejectedImage(path, f"unsupported format {kind}: {EXPECTED}")
    raise RejectedImage(path, f"not an image: {EXPECTED}")


def _first_bytes(path: str | Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(132)


def _check_size(path: str | Path, width: int, height: int, most: int = MAX_MEGAPIXELS) -> None:
    if width * height > most * 1_000_000:
        raise RejectedImage(path, TOO_LARGE.format(most))
    if min(width, height) < MIN_SIDE:
        raise RejectedImage(path, f"{width}x{height} pixels: smaller than {MIN_SIDE} px a side")


def _damage_errors(kind: str) -> tuple[type[Exception], ...]:
    """What Pillow or pydicom raise for a damaged file, as found by fuzzing."""
    shared = (KeyError, OSError, TypeError, ValueError, struct.error)
    if kind != "DICOM":
        return *shared, EOFError, IndexError, SyntaxError
    from pydicom.errors import BytesLengthException

    return *shared, AttributeError, RuntimeError, BytesLengthException


def _read_raster(path: str | Path, kind: str) -> np.ndarray:
    with Image.open(path, formats=[kind]) as image:
        _check_raster(path, image, kind)
        if image.width * image.height <= LARGE_PIXELS:
            return _decode_raster(path, image)
    image = None
    with _alone():
        return _read_large_raster(path, kind)  # has let go of everything when it returns


def _read_large_raster(path: str | Path, kind: str) -> np.ndarray:
    with Image.open(path, formats=[kind]) as image:
        return _decode_raster(path, image)


def _decode_raster(path: str | Path, image: Image.Image) -> np.ndarray:
    image.load()
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    if image.mode in DEEP_MODES:
        grey = _deep_to_grey(path, image)
    elif image.mode in FLAT_MODES:
        grey = _flat_to_grey(path, image)
    else:
        raise RejectedImage(path, f"unsupported colour mode {image.mode}")
    return np.array(ORIENTATIONS.get(orientation, np.asarray)(grey), order="C")


def _check_raster(path: str | Path, image: Image.Image, kind: str) -> None:
    _check_size(path, *image.size, MAX_MEGAPIXELS_WEBP if kind == "WEBP" else MAX_MEGAPIXELS)
    if getattr(image, "is_animated", False):
        raise RejectedImage(path, "animated or multi-frame: expected a single picture")
    if kind == "JPEG":
        _check_scans(path, Path(path).read_bytes())
    if kind == "TIFF":  # a tile is unpacked whole, however small the picture
        tile = [image.tag_v2.get(tag, 1) for tag in (TILEWIDTH, TILELENGTH)]
        if tile[0] * tile[1] > MAX_MEGAPIXELS * 1_000_000:
            raise RejectedImage(path, TOO_LARGE.format(MAX_MEGAPIXELS))


def _check_scans(path: str | Path, jpeg: bytes) -> None:
    if jpeg.count(b"\xff\xda") > MAX_SCANS:
        raise RejectedImage(path, f"a JPEG of more than {MAX_SCANS} scans")


def _deep_to_grey(path: str | Path, image: Image.Image) -> np.ndarray:
    # Pillow inverts a TIFF whose zero is white (photometric 0) at 8 bits only
    white_is_zero = image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0
    sign = -1.0 if white_is_zero else 1.0

    def rows(top: int, bottom: int) -> np.ndarray:
        return sign * np.asarray(image.crop((0, top, image.width, bottom)), np.float64)

    return _scale(path, rows, image.height, image.width)


def _flat_to_grey(path: str | Path, image: Image.Image) -> np.ndarray:
    if image.mode not in ("1", "L", "LA"):
        coloured = _coloured_share(image)
        if coloured > MAX_COLOURED:
            raise RejectedImage(path, f"colour photograph: {coloured:.0%} of it clearly coloured")
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        return np.asarray(ImageChops.multiply(image.convert("L"), image.getchannel("A")))
    return np.asarray(image.convert("L"))


def _coloured_share(image: Image.Image) -> float:
    size = min(image.width, 512), min(image.height, 512)
    sample = image.resize(size, Image.Resampling.NEAREST).convert("RGBA")
    black = Image.new("RGBA", size, (0, 0, 0, 255))
    rgb = np.asarray(Image.alpha_composite(black, sample))[..., :3]
    return float((np.ptp(rgb, axis=2) >= CLEAR_COLOUR).mean())


def _scale(path: str | Path, rows: Callable, height: int, width: int) -> np.ndarray:
    """Map `rows(top, bottom)` to 0..255 by the extremes, in bands that bound the memory."""
    band = max(1, 2**20 // width)
    bands = [(top, min(top + band, height)) for top in range(0, height, band)]
    extremes = [(values.min(), values.max()) for values in (rows(*band) for band in bands)]
    low, high = np.min(extremes), np.max(extremes)
    if not np.isfinite(high - low):
        raise RejectedImage(path, "NaN or infinite pixel values")
    grey = np.zeros((height, width), np.uint8)
    if high > low:
        for top, bottom in bands:
            grey[top:bottom] = np.rint((rows(top, bottom) - low) / (high - low) * 255)
    return grey


def _read_dicom(path: str | Path) -> np.ndarray:
    from pydicom import dcmread  # slow to import
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    syntax = read_file_meta_info(path).TransferSyntaxUID
    if syntax == DeflatedExplicitVRLittleEndian:  # would be inflated whole, without a limit
        raise RejectedImage(path, "deflated DICOM file: store it uncompressed")
    header = dcmread(path, stop_before_pixels=True, specific_tags=DICOM_TAGS)
    _check_dicom(path, header)
    with _alone() if header.Rows * header.Columns > LARGE_PIXELS else nullcontext():
        return _decode_dicom(path, syntax)


def _decode_dicom(path: str | Path, syntax) -> np.ndarray:
    from pydicom import dcmread
    from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array
    from pydicom.uid import RLELossless

    dataset = dcmread(path, specific_tags=DICOM_TAGS)
    for element in list(dataset):
        if element.is_empty:  # the same as absent
            del dataset[element.tag]
    if "PixelData" not in dataset:
        raise RejectedImage(path, "DICOM file without pixel data")
    if syntax.is_compressed:
        _check_compressed(path, dataset, syntax)
    # the RLE decoder of pylibjpeg panics on damaged data, pydicom's own raises
    plugin = "pydicom" if syntax == RLELossless else ""
    pixels = pixel_array(dataset, decoding_plugin=plugin)
    sign = -1.0 if dataset.PhotometricInterpretation == "MONOCHROME1" else 1.0

    def rows(top: int, bottom: int) -> np.ndarray:
        return sign * apply_voi_lut(apply_modality_lut(pixels[top:bottom], dataset), dataset)

    return _scale(path, rows, *pixels.shape)


def _check_dicom(path: str | Path, header) -> None:
    size = header.get("Columns"), header.get("Rows")
    if not all(isinstance(side, int) for side in size):
        raise RejectedImage(path, "DICOM file without pixel data")
    _check_size(path, *size)
    if (header.get("NumberOfFrames") or 1) != 1:
        raise RejectedImage(path, "multi-frame DICOM file: expected a single picture")
    if header.get("PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2"):
        raise RejectedImage(path, "colour DICOM file: expected MONOCHROME1 or MONOCHROME2")
    if header.get("SamplesPerPixel") != 1 or header.get("BitsAllocated") not in (8, 16):
        raise RejectedImage(path, "DICOM pixels of an unsupported depth: expected 8 or 16 bits")


def _check_compressed(path: str | Path, dataset, syntax) -> None:
    from pydicom.encaps import get_frame
    from pydicom.pixels import get_decoder
    from pydicom.uid import RLELossless

    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        raise RejectedImage(path, "compressed DICOM file of an unsupported kind") from None
    if not available:
        raise RejectedImage(
            path,
            f"compressed DICOM file ({syntax.name}) and no decoder installed: "
            "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg",
        )
    rows, columns, depth = dataset.Rows, dataset.Columns, dataset.BitsAllocated // 8
    if syntax == RLELossless:  # would unfold up to 64-fold before its length is checked
        fits = len(dataset.PixelData) <= 4096 + 2 * rows * columns * depth
    else:  # the decoder would allocate what the codestream states
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        _check_scans(path, frame)
        fits = _codestream_size(frame) == (rows, columns, 1)
    if not fits:
        raise RejectedImage(path, "damaged DICOM file: its compressed picture differs in size")


def _codestream_size(frame: bytes) -> tuple[int, int, int]:
    """Rows, columns and components in the header of a JPEG, JPEG-LS or JPEG 2000 codestream."""
    if frame.startswith(b"\xff\x4f\xff\x51"):  # JPEG 2000: SIZ follows at once
        right, bottom, left, top = struct.unpack_from(">4I", frame, 8)
        return bottom - top, right - left, struct.unpack_from(">H", frame, 40)[0]
    position = 2
    while True:
        marker, length = struct.unpack_from(">HH", frame, position)
        if marker in START_OF_FRAME:
            return struct.unpack_from(">HHB", frame, position + 5)
        position += 2 + length
