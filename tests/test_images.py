import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hostile import HEIGHT, WIDTH, dicom, make_film, png, rle_frame
from PIL import Image, ImageOps
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import Decoder
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)
from sklearn.datasets import load_sample_image

from covidxr import InputError, images
from covidxr.images import RejectedImage, read_image, resize


@pytest.fixture(scope="module")
def film() -> np.ndarray:
    return make_film()


def reason(path) -> str:
    with pytest.raises(RejectedImage) as caught:
        read_image(path)
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    assert "\n" not in caught.value.reason
    return caught.value.reason


def save(path: Path, image: Image.Image, kind: str, **options) -> Path:
    image.save(path, kind, **options)
    return path


# --- what is read ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, mode, options",
    [
        ("PNG", "L", {}),
        ("PNG", "LA", {}),
        ("PNG", "RGB", {}),
        ("PNG", "RGBA", {}),
        ("PNG", "P", {}),
        ("TIFF", "L", {}),
        ("TIFF", "L", {"compression": "tiff_lzw"}),
        ("TIFF", "L", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", "L", {"compression": "packbits"}),
        ("TIFF", "L", {"big_tiff": True}),
        ("TIFF", "RGB", {}),
        ("TIFF", "RGBA", {}),
        ("TIFF", "P", {}),
        ("TIFF", "CMYK", {}),
        ("WEBP", "RGB", {"lossless": True}),
        ("WEBP", "RGBA", {"lossless": True}),
    ],
)
def test_lossless_formats_return_the_exact_film(tmp_path, film, kind, mode, options):
    image = Image.fromarray(film).convert(mode)
    grey = read_image(save(tmp_path / "film", image, kind, **options))
    assert grey.dtype == np.uint8
    assert grey.flags.writeable and grey.flags.c_contiguous
    np.testing.assert_array_equal(grey, film)


@pytest.mark.parametrize(
    "kind, mode", [("JPEG", "L"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("WEBP", "RGB")]
)
def test_lossy_formats_return_nearly_the_film(tmp_path, film, kind, mode):
    image = Image.fromarray(film).convert(mode)
    grey = read_image(save(tmp_path / "film", image, kind, quality=95))
    assert np.abs(grey.astype(int) - film)[1:, 1:].mean() < 2


def test_one_bit_film_becomes_black_and_white(tmp_path, film):
    grey = read_image(save(tmp_path / "film", Image.fromarray(film > 127), "PNG"))
    np.testing.assert_array_equal(grey, np.where(film > 127, 255, 0))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("gain, offset", [(257, 0), (16, 0), (3, 20_000)])
def test_16_bit_values_are_scaled_by_their_range(tmp_path, film, kind, gain, offset):
    deep = Image.fromarray(film.astype(np.uint16) * gain + offset)
    np.testing.assert_array_equal(read_image(save(tmp_path / "film", deep, kind)), film)


@pytest.mark.parametrize("values", [np.int32, np.float32])
def test_32_bit_tiff_is_scaled_by_its_range(tmp_path, film, values):
    deep = Image.fromarray(film.astype(values) * 2 - 300)
    np.testing.assert_array_equal(read_image(save(tmp_path / "film", deep, "TIFF")), film)


def test_16_bit_colour_png_keeps_the_high_byte(tmp_path, film):
    samples = np.repeat(film.astype(np.uint16) * 256 + 77, 3, axis=1).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    (tmp_path / "film").write_bytes(png(WIDTH, HEIGHT, 16, 2, rows))
    np.testing.assert_array_equal(read_image(tmp_path / "film"), film)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_whose_zero_is_white_is_inverted(tmp_path, film, dtype):
    path = save(tmp_path / "film", Image.fromarray((255 - film).astype(dtype)), "TIFF")
    data = bytearray(path.read_bytes())
    entry = data.find(struct.pack("<HHIH", 262, 3, 1, 1))  # photometric interpretation
    data[entry + 8] = 0
    path.write_bytes(data)
    np.testing.assert_array_equal(read_image(path), film)


def test_transparency_is_laid_on_black(tmp_path, film):
    image = Image.fromarray(film).convert("RGB")
    half = np.full(film.shape, 255, np.uint8)
    half[:, :40] = 0
    half[:, 40:60] = 128
    image.putalpha(Image.fromarray(half))
    grey = read_image(save(tmp_path / "film", image, "PNG"))
    assert (grey[:, :40] == 0).all()
    assert np.abs(grey[:, 40:60] - film[:, 40:60] * (128 / 255)).max() <= 1
    np.testing.assert_array_equal(grey[:, 60:], film[:, 60:])


def test_transparent_palette_entry_becomes_black(tmp_path, film):
    palette = Image.fromarray(film).convert("P")
    grey = read_image(save(tmp_path / "film", palette, "PNG", transparency=200))
    np.testing.assert_array_equal(grey, np.where(film == 200, 0, film))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, film, kind, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    image = Image.fromarray(film).convert("RGB")
    path = save(tmp_path / "film", image, kind, exif=exif, **options)
    image.getexif()[274] = orientation
    expected = np.asarray(ImageOps.exif_transpose(image).convert("L"))
    np.testing.assert_array_equal(read_image(path), expected)


def test_exif_rotation_moves_the_marker_of_a_jpeg(tmp_path):
    film = np.zeros((80, 120), np.uint8)
    film[:16, :16] = 255  # top left as stored; 6 means "turn by 90 degrees clockwise"
    exif = Image.Exif()
    exif[274] = 6
    grey = read_image(save(tmp_path / "film", Image.fromarray(film), "JPEG", exif=exif))
    assert grey.shape == (120, 80)
    assert (grey[:16, -16:] > 240).all() and grey[:, :60].max() < 15


@pytest.mark.parametrize("name", ["film.jpg", "film.dcm", "film.txt", "film", "a\nb,'é'.gif"])
def test_extension_does_not_matter(tmp_path, film, name):
    np.testing.assert_array_equal(
        read_image(str(save(tmp_path / name, Image.fromarray(film), "PNG"))), film
    )
    np.testing.assert_array_equal(read_image(dicom(tmp_path / name, film)), film)


@pytest.mark.parametrize("tint", [(0.9, 0.95, 1.0), (1.0, 0.95, 0.87)])
def test_tinted_film_passes(tmp_path, film, tint):
    rgb = Image.fromarray((film[..., None] * np.array(tint)).astype(np.uint8))
    assert read_image(save(tmp_path / "film", rgb, "PNG")).shape == film.shape


def test_small_coloured_annotation_passes(tmp_path, film):
    rgb = np.repeat(film[..., None], 3, axis=2)
    rgb[10:30, 10:25] = 255, 0, 0
    grey = read_image(save(tmp_path / "film", Image.fromarray(rgb), "PNG"))
    assert (grey[10:30, 10:25] == 76).all()
    np.testing.assert_array_equal(grey[30:], film[30:])


# --- DICOM ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_dicom_12_bit(tmp_path, film, syntax):
    order = ">u2" if syntax == ExplicitVRBigEndian else "<u2"
    pixels = (film.astype(np.uint16) * 16).astype(order)
    path = dicom(tmp_path / "film", pixels, syntax, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(read_image(path), film)


def test_dicom_signed(tmp_path, film):
    pixels = film.astype(np.int16) * 4 - 512
    path = dicom(tmp_path / "film", pixels, PixelRepresentation=1)
    np.testing.assert_array_equal(read_image(path), film)


def test_monochrome1_and_2_give_the_same_picture(tmp_path, film):
    pixels = film.astype(np.uint16) * 13 + 5
    plain = read_image(dicom(tmp_path / "2", pixels))
    inverted = dicom(tmp_path / "1", 4095 - pixels, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(read_image(inverted), plain)
    np.testing.assert_array_equal(plain, film)


def test_rescale_comes_before_the_window(tmp_path, film):
    path = dicom(
        *(tmp_path / "film", film.astype(np.uint16)),
        RescaleSlope=2,
        RescaleIntercept=-100,
        WindowCenter=[100, 0],  # the first view counts
        WindowWidth=[200, 1],
        VOILUTFunction="LINEAR_EXACT",
    )
    shown = np.clip(film * 2.0 - 100, 0, 200)  # the window 0..200 of the rescaled values
    np.testing.assert_allclose(read_image(path), shown / 200 * 255, atol=0.51)


def test_voi_lookup_table_is_applied(tmp_path, film):
    table = Dataset()
    table.LUTDescriptor = [256, 0, 16]
    table.LUTData = ((np.arange(256, dtype=np.uint16) // 64) * 100).tobytes()
    table["LUTData"].VR = "OW"
    path = dicom(tmp_path / "film", film, VOILUTSequence=[table])
    np.testing.assert_array_equal(read_image(path), film // 64 * 85)


def test_empty_dicom_elements_count_as_absent(tmp_path, film):
    empty = dict.fromkeys(("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept"), "")
    path = dicom(tmp_path / "film", film, **empty)
    np.testing.assert_array_equal(read_image(path), film)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGBaseline8Bit])
def test_compressed_dicom(tmp_path, film, syntax):
    if syntax == RLELossless:
        frame = rle_frame(film)
    else:
        frame = save(tmp_path / "jpg", Image.fromarray(film), "JPEG", quality=97).read_bytes()
    grey = read_image(dicom(tmp_path / "film", film, syntax, frame))
    assert np.abs(grey.astype(int) - film)[1:, 1:].max() <= (0 if syntax == RLELossless else 12)


@pytest.mark.parametrize(
    "tags, expected",
    [
        ({"NumberOfFrames": 2}, "multi-frame DICOM file: expected a single picture"),
        ({"PhotometricInterpretation": "RGB"}, "colour DICOM file: expected MONOCHROME1"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour DICOM file: expected MONO"),
        ({"PhotometricInterpretation": None}, "colour DICOM file: expected MONOCHROME1"),
        ({"BitsAllocated": 32}, "DICOM pixels of an unsupported depth: expected 8 or 16 bits"),
        ({"Rows": None}, "DICOM file without pixel data"),
        ({"Rows": [70, 70]}, "DICOM file without pixel data"),
        ({"Rows": 20}, "90x20 pixels: smaller than 64 px a side"),
        ({"Rows": 60_000, "Columns": 60_000}, "more than 70 megapixels"),
        ({"Rows": 80}, "damaged or truncated DICOM file"),
        ({"BitsStored": None}, "damaged or truncated DICOM file"),
        ({"RescaleSlope": "1e308", "RescaleIntercept": 0}, "NaN or infinite pixel values"),
        ({"WindowCenter": 9000, "WindowWidth": 10}, "blank image: no contrast"),
    ],
)
def test_rejected_dicom(tmp_path, film, tags, expected):
    assert reason(dicom(tmp_path / "film", film, **tags)).startswith(expected)


def test_dicom_without_pixels(tmp_path):
    assert reason(dicom(tmp_path / "film")) == "DICOM file without pixel data"


def test_deflated_dicom_is_refused_before_inflation(tmp_path):
    path = dicom(
        tmp_path / "film", np.zeros((4000, 4000), np.uint8), DeflatedExplicitVRLittleEndian
    )
    tracemalloc.start()
    assert reason(path) == "deflated DICOM file: store it uncompressed"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000


def test_compressed_dicom_without_a_decoder(tmp_path, film, monkeypatch):
    monkeypatch.setattr(Decoder, "is_available", False)
    path = dicom(tmp_path / "film", film, JPEG2000Lossless, b"\xff\x4f\xff\x51" + bytes(60))
    found = reason(path)
    assert "no decoder installed: pip install pylibjpeg" in found and "JPEG 2000" in found


def test_dicom_video_is_refused(tmp_path, film):
    path = dicom(tmp_path / "film", film, "1.2.840.10008.1.2.4.100", b"mpeg")
    assert reason(path) == "compressed DICOM file of an unsupported kind"


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEG2000Lossless, RLELossless])
def test_bomb_inside_a_compressed_dicom_is_refused(tmp_path, film, syntax, monkeypatch):
    monkeypatch.setattr(Decoder, "is_available", True)
    if syntax == JPEGBaseline8Bit:
        frame = b"\xff\xd8\xff\xe0\0\4ab\xff\xc0\0\x0b\x08" + struct.pack(">HH", 60_000, 60_000)
        frame += b"\1\1\x11\0"
    elif syntax == RLELossless:
        frame = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\0" * 500_000  # 64 MB of zeros
    else:
        frame = b"\xff\x4f\xff\x51\0\x29\0\0" + struct.pack(">8I", 60_000, 60_000, *[0] * 6)
        frame += b"\0\1\7\1\1"
    path = dicom(tmp_path / "film", film, syntax, frame)
    assert reason(path) == "damaged DICOM file: its compressed picture differs in size"


# --- what is rejected -----------------------------------------------------------------------


def test_rejection_is_an_input_error_that_survives_pickling():
    error = pickle.loads(pickle.dumps(RejectedImage(Path("a.png"), "empty file")))
    assert isinstance(error, InputError)
    assert (error.path, error.reason, str(error)) == (
        Path("a.png"),
        "empty file",
        "a.png: empty file",
    )


NOT_AN_IMAGE = "not an image: expected PNG, JPEG, TIFF, WebP or DICOM"


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"", "empty file"),
        (b"\0" * 500, NOT_AN_IMAGE),
        (b"PK\3\4" + b"\0" * 200, NOT_AN_IMAGE),
        (b"<!doctype html><html>404</html>", NOT_AN_IMAGE),
        (b"RIFF\0\0\0\0WAVEfmt ", NOT_AN_IMAGE),
        (b"GIF89a" + b"\0" * 50, "unsupported format GIF: expected PNG"),
        (b"BM" + b"\0" * 50, "unsupported format BMP: expected PNG"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "unsupported format JPEG 2000: expected PNG"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "damaged or truncated PNG file"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 50, "damaged or truncated JPEG file"),
        (b"II*\0" + b"\xff" * 50, "damaged or truncated TIFF file"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "damaged or truncated WEBP file"),
        (b"\0" * 128 + b"DICM" + b"\xff" * 50, "damaged or truncated DICOM file"),
    ],
)
def test_hostile_content(tmp_path, content, expected):
    path = tmp_path / "film.png"
    path.write_bytes(content)
    assert reason(path).startswith(expected)


def test_paths_that_are_no_files(tmp_path):
    assert reason(tmp_path / "none.png") == "cannot be opened: No such file or directory"
    assert reason(tmp_path) == "a folder, not a file"
    assert reason("a\0b.png") == "cannot be opened: not a valid path"
    assert reason(tmp_path / ("x" * 300)).startswith("cannot be opened: File name too long")


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX links and pipes")
def test_link_loops_and_pipes(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert reason(tmp_path / "loop").startswith("cannot be opened: Too many levels")
    os.mkfifo(tmp_path / "pipe")
    assert reason(tmp_path / "pipe") == "not a regular file"


def test_unreadable_file(tmp_path, film, monkeypatch):
    path = save(tmp_path / "film", Image.fromarray(film), "PNG")

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(images, "_first_bytes", refuse)
    assert reason(path) == "cannot be opened: Permission denied"


def test_out_of_memory_is_a_reason(tmp_path, film, monkeypatch):
    def fail(self):
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    path = save(tmp_path / "film", Image.fromarray(film), "PNG")
    assert reason(path) == "claims more memory than is available"


def test_huge_file_is_refused_unread(tmp_path, film):
    path = save(tmp_path / "film", Image.fromarray(film), "PNG")
    os.truncate(path, images.MAX_BYTES + 1)  # sparse
    assert reason(path) == "larger than 400 MB"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "DICOM"])
def test_truncated_anywhere(tmp_path, film, kind):
    """A cut file is rejected, or nothing but its trailer was cut and the film is whole."""
    path = tmp_path / "film"
    whole = (dicom if kind == "DICOM" else save)(
        path, *([film] if kind == "DICOM" else [Image.fromarray(film), kind])
    ).read_bytes()
    expected = read_image(path)
    rejected = 0
    for length in np.linspace(1, len(whole) - 1, 60).astype(int):
        path.write_bytes(whole[:length])
        try:
            np.testing.assert_array_equal(read_image(path), expected)
        except RejectedImage:
            rejected += 1
    assert rejected >= 55
    path.write_bytes(whole[: len(whole) * 2 // 3])
    assert reason(path) == f"damaged or truncated {kind} file"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "DICOM"])
def test_flipped_bits_raise_nothing_else(tmp_path, film, kind):
    path = tmp_path / "film"
    if kind == "DICOM":
        dicom(path, film.astype(np.uint16), WindowCenter=90, WindowWidth=100, RescaleSlope=2)
    else:
        save(path, Image.fromarray(film), kind)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    rejected = 0
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[rng.integers(min(len(whole), 700))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            assert read_image(path).dtype == np.uint8
        except RejectedImage:
            rejected += 1
    assert 0 < rejected


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "MPO"])
def test_animated_or_multi_frame(tmp_path, film, kind):
    image = Image.fromarray(film)
    turned = Image.fromarray(film[::-1])
    path = save(tmp_path / "film", image, kind, save_all=True, append_images=[turned])
    assert reason(path) == "animated or multi-frame: expected a single picture"


@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_colour_photograph(tmp_path, name, kind):
    photograph = Image.fromarray(load_sample_image(name)).resize((320, 214))
    assert reason(save(tmp_path / "photo", photograph, kind)).startswith("colour photograph: ")
    grey = photograph.convert("L").convert("RGB")
    assert read_image(save(tmp_path / "photo", grey, kind)).shape == (214, 320)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_blank_image(tmp_path, level):
    blank = np.full((100, 100), level, np.uint8)
    blank[40:44, 40:44] = 255 - level // 2  # one mark does not make a film
    for kind in ("PNG", "JPEG"):
        path = save(tmp_path / "film", Image.fromarray(blank), kind)
        assert reason(path) == "blank image: no contrast"
    deep = Image.fromarray(np.full((100, 100), level, np.uint16))
    assert reason(save(tmp_path / "film", deep, "PNG")) == "blank image: no contrast"


def test_unsupported_colour_mode(tmp_path):
    path = save(tmp_path / "film", Image.new("LAB", (80, 80)), "TIFF")
    assert reason(path) == "unsupported colour mode LAB"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_float_tiff_with_a_value_that_is_no_number(tmp_path, film, bad):
    values = film.astype(np.float32)
    values[30, 30] = bad
    path = save(tmp_path / "film", Image.fromarray(values), "TIFF")
    assert reason(path) == "NaN or infinite pixel values"


@pytest.mark.parametrize("shape", [(63, 100), (100, 63), (1, 1)])
def test_smaller_than_64_pixels(tmp_path, film, shape):
    small = Image.fromarray(np.resize(film, shape))
    expected = f"{shape[1]}x{shape[0]} pixels: smaller than 64 px a side"
    assert reason(save(tmp_path / "film", small, "PNG")) == expected
    assert read_image(save(tmp_path / "film", Image.fromarray(film[:64, :64]), "PNG")).shape == (
        64,
        64,
    )


@pytest.mark.parametrize("side", [8_661, 20_000, 2**31 - 1])
def test_bomb_is_refused_from_its_header(tmp_path, side):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(side, side, 8, 0, bytes(1000)))
    tracemalloc.start()
    assert reason(path) == "more than 70 megapixels"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_bomb_is_never_decoded(tmp_path, monkeypatch):
    def fail(self):
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    path = tmp_path / "bomb.png"
    path.write_bytes(png(10_000, 7_501, 8, 0, bytes(1000)))
    assert reason(path) == "more than 70 megapixels"


# --- resize and import ----------------------------------------------------------------------


def test_resize_is_square_and_antialiased(film):
    stripes = np.tile(np.array([[0, 255]], np.uint8), (200, 100))
    small = resize(stripes, 50)
    assert small.shape == (50, 50) and small.dtype == np.uint8 and small.flags.writeable
    assert np.abs(small.astype(int) - 128)[:, 1:-1].max() <= 2  # nearest would give 0 or 255
    np.testing.assert_array_equal(resize(film[:64, :64], 64), film[:64, :64])
    assert resize(film, 224).shape == (224, 224)


def test_resize_squashes_rather_than_crops_or_pads():
    wide = np.zeros((100, 300), np.uint8)
    wide[:, :30] = 255
    square = resize(wide, 100)
    assert (square[:, :9] == 255).all() and (square[:, 12:] == 0).all()


def test_import_is_silent_and_leaves_pillow_alone():
    code = (
        "import sys, PIL.Image as I; before = I.MAX_IMAGE_PIXELS; import covidxr.images;"
        "assert I.MAX_IMAGE_PIXELS == before; assert 'pydicom' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")


def test_reading_a_real_radiograph(real_data):
    paths = sorted((real_data / "COVID-19_Radiography_Dataset").glob("*/images/*.png"))[::500]
    assert paths
    for path in paths:
        np.testing.assert_array_equal(read_image(path), np.asarray(Image.open(path)))


def test_threads_leave_warnings_as_they_were(tmp_path):
    path = tmp_path / "film.png"
    Image.fromarray(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)).save(path)
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read_image, [path] * 400))
    assert list(warnings.filters) == before
