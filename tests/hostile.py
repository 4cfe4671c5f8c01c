"""Files that no reader of radiographs should trip over, and what is expected of each.

Every builder gives {name: (content, reason)}; an empty reason means that the file is a film.
"""

import io
import os
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
)

HEIGHT, WIDTH = 70, 90
KINDS = ("PNG", "JPEG", "TIFF", "WEBP", "DICOM")
NO_IMAGE = "not an image: expected PNG, JPEG, TIFF, WebP or DICOM"
ANIMATED = "animated or multi-frame: expected a single picture"


def make_film() -> np.ndarray:
    """Smooth grey picture (70, 90) with every level from 0 to 255 and no symmetry."""
    ramp = np.linspace(0, 255, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    bump = 60 * np.exp(-((np.arange(WIDTH) - 20) ** 2) / 200)
    film = np.clip(ramp + bump, 0, 255).astype(np.uint8)
    film[0, 0] = 0
    return film


FILM = make_film()


def dicom(path, pixels=None, syntax=ExplicitVRLittleEndian, frame=None, **tags):
    """Write a single-frame DICOM file; a tag given as None is left out."""
    dataset, meta = Dataset(), FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.file_meta = meta
    shape = (HEIGHT, WIDTH) if pixels is None else pixels.shape
    bits = 8 if pixels is None else 8 * pixels.itemsize
    known = dict(
        SOPClassUID=meta.MediaStorageSOPClassUID,
        SOPInstanceUID="1.2.3",
        PatientName="Secret^Name",
        Rows=shape[0],
        Columns=shape[1],
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        BitsAllocated=bits,
        BitsStored=bits,
        HighBit=bits - 1,
        PixelRepresentation=0,
    )
    for tag, value in (known | tags).items():
        if value is not None:
            setattr(dataset, tag, value)
    if frame is not None:
        dataset.PixelData = encapsulate([frame])
    elif pixels is not None:
        dataset.PixelData = pixels.tobytes()
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OB" if frame is not None else "OW"
        dataset["PixelData"].is_undefined_length = frame is not None
    dataset.save_as(path, enforce_file_format=True)
    return path


def dicom_bytes(*arguments, **options) -> bytes:
    return dicom(io.BytesIO(), *arguments, **options).getvalue()


def rle_frame(pixels: np.ndarray) -> bytes:
    """Literal runs of up to 128 bytes, one per row of 8-bit pixels."""
    runs = b"".join(bytes([pixels.shape[1] - 1]) + row.tobytes() for row in pixels)
    return struct.pack("<16I", 1, 64, *[0] * 14) + runs


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *chunks) -> bytes:
    """A PNG file of filtered `rows`, with more `chunks` (kind, data) before them."""
    return packed_png(width, height, bits, colour, zlib.compress(rows), *chunks)


def packed_png(width, height, bits, colour, packed: bytes, *chunks) -> bytes:
    header = struct.pack(">2I5B", width, height, bits, colour, 0, 0, 0)
    chunks = (b"IHDR", header), *chunks, (b"IDAT", packed), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def zeros(megabytes: int) -> bytes:
    """So many megabytes of zeros, compressed."""
    pack = zlib.compressobj(1)
    return b"".join(pack.compress(bytes(2**20)) for _ in range(megabytes)) + pack.flush()


def tiff(tags: dict[int, int], data: bytes) -> bytes:
    """A TIFF file of one strip or tile, `data`; a tag whose value is None is where it begins."""
    start = 8 + 2 + 12 * len(tags) + 4
    entries = [
        struct.pack("<HHII", tag, 4, 1, start if n is None else n) for tag, n in tags.items()
    ]
    directory = struct.pack("<H", len(tags)) + b"".join(entries) + bytes(4)
    return struct.pack("<2sHI", b"II", 42, 8) + directory + data


def tiled(side: int, tile: int, data: bytes) -> bytes:
    """A deflated grey TIFF of one tile that is larger than the picture."""
    shape = {256: side, 257: side, 258: 8, 259: 8, 262: 1, 277: 1}
    return tiff(shape | {322: tile, 323: tile, 324: None, 325: len(data)}, data)


def raster(image, kind: str, **options) -> bytes:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def film_bytes(kind: str) -> bytes:
    return dicom_bytes(FILM) if kind == "DICOM" else raster(FILM, kind)


def jpeg_sized(jpeg: bytes, width: int, height: int) -> bytes:
    """A JPEG that states another size; its decoder fills up with grey."""
    frame = next(at for code in (b"\xff\xc0", b"\xff\xc2") if (at := jpeg.find(code)) > 0)
    return jpeg[: frame + 5] + struct.pack(">HH", height, width) + jpeg[frame + 9 :]


def webp_sized(side: int) -> bytes:
    """A lossless WebP file of one colour: codes of one symbol, so its pixels take no bits."""
    codes = int("0001" * 5, 2)  # for green, red, blue, alpha, distance: simple, one symbol, 0
    bits = 0x2F | (side - 1) << 8 | (side - 1) << 22 | codes << 43  # no transform, cache or meta
    stream = bits.to_bytes(10, "little")
    chunk = b"VP8L" + struct.pack("<I", len(stream)) + stream
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def many_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan comes `count` times more."""
    jpeg = raster(FILM, "JPEG", progressive=True)
    last = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    return jpeg[:-2] + last * count + jpeg[-2:]


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[274] = orientation
    return tags


def truncated() -> dict:
    files = {}
    for kind in KINDS:
        whole = film_bytes(kind)
        for share in (0.1, 0.3, 0.5, 0.75, 0.95):
            content = whole[: int(len(whole) * share)]
            reason = f"damaged or truncated {kind} file"
            files[f"truncated {kind} {share:.0%}"] = content, reason
        files[f"truncated {kind} 3 bytes"] = whole[:3], NO_IMAGE
    files["truncated JPEG 3 bytes"] = b"\xff\xd8\xff", "damaged or truncated JPEG file"
    return files


def flipped() -> dict:
    places = {  # where one flipped bit cannot go unnoticed
        "PNG": [(8, 0), (10, 3), (12, 3)],  # length and name of a chunk
        "JPEG": [(20, 3), (22, 0), (24, 3)],  # a quantisation table
        "TIFF": [(8, 3), (10, 3), (12, 6)],  # the directory
        "WEBP": [(12, 6), (14, 0), (16, 3)],
        "DICOM": [(138, 0), (144, 3), (159, 0)],
    }
    files = {}
    for kind, bits in places.items():
        for byte, bit in bits:
            content = bytearray(film_bytes(kind))
            content[byte] ^= 1 << bit
            files[f"flipped {kind} {byte}"] = bytes(content), f"damaged or truncated {kind} file"
    return files


def no_images() -> dict:
    contents = {
        "zip.png": b"PK\3\4\x14\0\0\0\x08\0" + bytes(200),
        "page.png": b"<!doctype html><html><title>404</title></html>",
        "script.jpg": b"<svg onload=alert(1)>",
        "paper.png": b"%PDF-1.7\n" + bytes(100),
        "program.tif": b"\x7fELF" + bytes(200),
        "table.dcm": b"image_path,label\na.png,COVID\n",
        "pickle.png": b"\x80\x04\x95\x0b\0\0\0\0\0\0\0cos\nsystem\n.",
        "zeros.png": bytes(1000),
        "ones.png": b"\xff" * 1000,
        "a byte.png": b"\x89",
        "sound.webp": b"RIFF\x24\0\0\0WAVEfmt " + bytes(40),
        "lines.png": b"\n" * 500,
    }
    files = {name: (content, NO_IMAGE) for name, content in contents.items()}
    return files | {
        "empty.png": (b"", "empty file"),
        "moving.png": (b"GIF89a" + bytes(50), "unsupported format GIF"),
        "bitmap.png": (b"BM" + bytes(50), "unsupported format BMP"),
        "j2k.png": (b"\0\0\0\x0cjP  \r\n\x87\n", "unsupported format JPEG 2000"),
    }


def pictures() -> dict:
    grey = Image.fromarray(FILM)
    turned = {"save_all": True, "append_images": [Image.fromarray(FILM[::-1])]}
    noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8)
    values = FILM.astype(np.float32)
    values[30, 30] = np.nan
    infinite = np.where(np.isnan(values), np.inf, values)
    return {
        "deep.png": (raster(FILM.astype(np.uint16) * 200, "PNG"), ""),
        "deep.tif": (raster(FILM.astype(np.uint16) * 200, "TIFF"), ""),
        "cmyk.jpg": (raster(grey.convert("CMYK"), "JPEG"), ""),
        "palette.png": (raster(grey.convert("P"), "PNG"), ""),
        "transparent.png": (raster(grey.convert("LA"), "PNG"), ""),
        "turned.jpg": (raster(grey, "JPEG", exif=exif(6)), ""),
        "orientation 200.png": (raster(grey, "PNG", exif=exif(200)), ""),
        "one bit.png": (raster(grey.convert("1"), "PNG"), ""),
        "progressive.jpg": (raster(grey, "JPEG", progressive=True), ""),
        "png called.dcm": (raster(grey, "PNG"), ""),
        "tiff called.JPG": (raster(grey, "TIFF"), ""),
        "no extension": (raster(grey, "WEBP"), ""),
        "trailing.png": (raster(grey, "PNG") + b"PK\3\4" + bytes(5000), ""),
        "moving.webp": (raster(grey, "WEBP", **turned), ANIMATED),
        "apng.png": (raster(grey, "PNG", **turned), ANIMATED),
        "pages.tif": (raster(grey, "TIFF", **turned), ANIMATED),
        "two.jpg": (raster(grey, "MPO", **turned), ANIMATED),
        "nan.tif": (raster(values, "TIFF"), "NaN or infinite pixel values"),
        "infinite.tif": (raster(infinite, "TIFF"), "NaN or infinite pixel values"),
        "lab.tif": (raster(Image.new("LAB", (80, 80)), "TIFF"), "unsupported colour mode LAB"),
        "photo.png": (raster(noise, "PNG"), "colour photograph: "),
        "black.png": (raster(Image.new("L", (99, 99)), "PNG"), "blank image: no contrast"),
        "icon.png": (raster(FILM[:32, :32], "PNG"), "32x32 pixels: smaller than 64 px a side"),
        "ribbon.png": (raster(FILM[:2], "PNG"), "90x2 pixels: smaller than 64 px a side"),
    }


def dicoms() -> dict:
    deep, frame = FILM.astype(np.uint16) * 16, raster(FILM, "JPEG", quality=97)
    colour = "colour DICOM file: expected MONOCHROME1 or MONOCHROME2"
    without, differs = "DICOM file without pixel data", "damaged DICOM file: its compressed picture"
    huge = jpeg_sized(frame, 60_000, 60_000)
    return {
        "plain.dcm": (dicom_bytes(deep, BitsStored=12, HighBit=11), ""),
        "inverted.dcm": (dicom_bytes(deep, PhotometricInterpretation="MONOCHROME1"), ""),
        "dicom called.png": (dicom_bytes(FILM), ""),
        "rle.dcm": (dicom_bytes(FILM, RLELossless, rle_frame(FILM)), ""),
        "jpeg.dcm": (dicom_bytes(FILM, JPEGBaseline8Bit, frame), ""),
        "frames.dcm": (dicom_bytes(FILM, NumberOfFrames=2), "multi-frame DICOM file"),
        "report.dcm": (dicom_bytes(), without),
        "no rows.dcm": (dicom_bytes(FILM, Rows=None), without),
        "colour.dcm": (dicom_bytes(FILM, PhotometricInterpretation="RGB"), colour),
        "deflated.dcm": (dicom_bytes(FILM, DeflatedExplicitVRLittleEndian), "deflated DICOM file"),
        "video.dcm": (dicom_bytes(FILM, "1.2.840.10008.1.2.4.100", b"mpeg"), "compressed DICOM"),
        "huge.dcm": (dicom_bytes(FILM, Rows=60_000, Columns=60_000), "more than 70 megapixels"),
        "huge inside.dcm": (dicom_bytes(FILM, JPEGBaseline8Bit, huge), differs),
        "window.dcm": (dicom_bytes(FILM, WindowCenter=9000, WindowWidth=10), "blank image"),
        "slope.dcm": (
            dicom_bytes(FILM, RescaleSlope="1e308", RescaleIntercept=0),
            "NaN or infinite pixel values",
        ),
        "rows.dcm": (dicom_bytes(FILM, Rows=80), "damaged or truncated DICOM file"),
    }


def bombs() -> dict:
    """Small files that unpack to gigabytes, or to what is just below the limits."""
    cmyk = raster(Image.new("CMYK", (64, 64)), "JPEG", progressive=True)
    runs = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\0" * 500_000  # 64 MB of zeros
    text = b"comment\0\0" + zeros(100)
    profile = b"icc\0\0" + zeros(100)
    grey = png(WIDTH, HEIGHT, 8, 0, b"".join(b"\0" + row.tobytes() for row in FILM))
    return {
        "bomb.png": (png(60_000, 60_000, 8, 0, bytes(1000)), "more than 70 megapixels"),
        "bomb 2.png": (png(2**31 - 1, 2**31 - 1, 8, 0, bytes(1000)), "more than 70 megapixels"),
        "bomb.jpg": (jpeg_sized(cmyk, 65_000, 65_000), "more than 70 megapixels"),
        "bomb.tif": (tiled(50_000, 50_000, b"x"), "more than 70 megapixels"),
        "bomb.webp": (webp_sized(9_000), "more than 50 megapixels"),
        "tile.tif": (tiled(100, 30_000, zeros(10)), "more than 70 megapixels"),
        "scans.jpg": (many_scans(1000), "a JPEG of more than 500 scans"),
        "runs.dcm": (dicom_bytes(FILM, RLELossless, runs), "damaged DICOM file"),
        "text.png": (
            grey[:33] + png_chunk(b"zTXt", text) + grey[33:],
            "damaged or truncated PNG file",
        ),
        "profile.png": (
            grey[:33] + png_chunk(b"iCCP", profile) + grey[33:],
            "damaged or truncated PNG file",
        ),
        "below.webp": (webp_sized(7_070), "blank image: no contrast"),
        "below.jpg": (jpeg_sized(cmyk, 8_360, 8_360), "blank image: no contrast"),
        "below.png": (packed_png(8_360, 8_360, 8, 4, zeros(134)), "blank image: no contrast"),
        "below.tif": (tiled(100, 8_360, zeros(67)), "blank image: no contrast"),
    }


NAMES = (
    *("line\nbreak.png", "carriage\rreturn.png", "tab\t.png", "comma, \"quote' `tick`.png"),
    *("émoji 😀.png", b"latin-\xe9.png", b"\xff\xfe.png", "a...png", "a\\..\\up.png"),
    *("=cmd|' -C calc'!A1.png", "+1.png", "-rf.png", "@SUM(A1).png", "'=1.png"),
    *("<img src=x onerror=alert(1)>.png", "&amp;.png", "%s{0}$HOME.png", "~.png", "* ? [a].png"),
    *("\x1b[2J\x1b]0;title\x07.png", "\u202egnp.exe", " space .png", "NA", "null.png", "CON.png"),
    "x" * 251 + ".png",
)


def write_names(folder: Path) -> dict[Path, str]:
    expected = {}
    for name in NAMES:
        path = folder / os.fsdecode(name)
        path.write_bytes(film_bytes("PNG"))
        expected[path] = ""
    return expected


def write_special(folder: Path) -> dict[Path, str]:
    """Links, pipes and sockets."""
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "ping.png").symlink_to(folder / "pong.png")
    (folder / "pong.png").symlink_to(folder / "ping.png")
    (folder / "dangling.png").symlink_to(folder / "nowhere.png")
    (folder / "up").symlink_to(folder, target_is_directory=True)  # a tree without an end
    (folder / "link.png").symlink_to("plain.dcm")
    (folder / "memory.png").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.png")
    with socket.socket(socket.AF_UNIX) as end:
        here = os.getcwd()
        os.chdir(folder)  # the name of a socket is limited to 108 bytes
        try:
            end.bind("socket.png")
        finally:
            os.chdir(here)
    return {
        folder / "loop.png": "cannot be opened: Too many levels of symbolic links",
        folder / "ping.png": "cannot be opened: Too many levels of symbolic links",
        folder / "pong.png": "cannot be opened: Too many levels of symbolic links",
        folder / "dangling.png": "cannot be opened: No such file or directory",
        folder / "link.png": "",
        folder / "memory.png": "not a regular file",
        folder / "pipe.png": "not a regular file",
        folder / "socket.png": "not a regular file",
    }


def build(folder: Path) -> dict[Path, str]:
    """Write the whole corpus into a folder: {path: reason expected, "" for a film}."""
    folder.mkdir(parents=True, exist_ok=True)
    expected = {}
    for make in (truncated, flipped, no_images, pictures, dicoms, bombs):
        for name, (content, reason) in make().items():
            (folder / name).write_bytes(content)
            expected[folder / name] = reason
    return expected | write_names(folder) | write_special(folder)
