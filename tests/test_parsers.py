"""Property tests: whatever the input, a parser gives its result or the error it promises."""

import importlib.util
import json
import math
import random
from dataclasses import asdict, fields
from io import BytesIO
from pathlib import Path

import hostile
import numpy as np
import openpyxl
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from covidxr import InputError, datasets, history, images, metadata, resume, runs, splits
from covidxr.config import TrainConfig
from covidxr.images import RejectedImage, read_image

settings.register_profile(
    "quick",
    max_examples=60,
    deadline=None,
    derandomize=True,  # the same examples each time; `--hypothesis-profile=search` looks for more
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
QUICK = settings.get_profile("quick")
settings.register_profile("search", QUICK, max_examples=2000, derandomize=False)
if settings.get_current_profile_name() != "search":
    settings.load_profile("quick")

FILMS = [content for content, reason in (hostile.pictures() | hostile.dicoms()).values()]
HEADS = [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"RIFF\0\0\0\0WEBP"]
HEADS += [bytes(128) + b"DICM"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)


def damaged(contents: list[bytes]):
    """One of `contents` after up to 20 bytes were changed, taken away or doubled."""

    def change(content: bytes, seed: int, changes: int) -> bytes:
        chance, data = random.Random(seed), bytearray(content)
        for _ in range(changes):
            place = chance.randrange(len(data) + 1)
            how = chance.randrange(4)
            if how == 0:
                del data[place : place + chance.randrange(1, 64)]
            elif how == 1:
                data[place:place] = data[place : place + chance.randrange(1, 64)]
            else:
                data[place : place + 1] = bytes([chance.randrange(256)])
        return bytes(data)

    return st.builds(change, st.sampled_from(contents), st.integers(0, 2**32), st.integers(1, 20))


def check_image(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        grey = read_image(path)
    except RejectedImage as error:
        assert error.reason and error.reason.isprintable()
        return
    assert grey.dtype == np.uint8 and grey.ndim == 2 and min(grey.shape) >= images.MIN_SIDE


@given(st.sampled_from(HEADS), st.binary(max_size=300))
def test_images_of_any_bytes(tmp_path, head, rest):
    check_image(tmp_path / "film", head + rest)


@given(damaged(FILMS))
def test_images_that_are_damaged(tmp_path, content):
    check_image(tmp_path / "film", content)


COHEN = "patientid offset sex age finding went_icu view modality location filename license".split()
CELLS = st.text(max_size=12) | st.sampled_from(["COVID-19", "PA", "X-ray", "a.png", "../a.png"])


@pytest.mark.filterwarnings("ignore:cohen")
@given(st.lists(st.lists(CELLS, min_size=11, max_size=11), max_size=6), st.binary(max_size=40))
def test_tables_of_the_collection(tmp_path, rows, tail):
    (tmp_path / "images").mkdir(exist_ok=True)
    text = pd.DataFrame(rows, columns=COHEN).to_csv(index=False).encode("utf-8", "replace")
    (tmp_path / "metadata.csv").write_bytes(text + tail)
    with pytest.raises(InputError):  # at best too few images
        datasets.load("cohen", tmp_path)


@given(st.binary(max_size=200))
def test_tables_of_any_bytes(tmp_path, content):
    (tmp_path / "metadata.csv").write_bytes(b"image_path,label,patient_id\n" + content)
    with pytest.raises(InputError):
        datasets.load("phantom", tmp_path)
    try:
        table = history.read(tmp_path / "metadata.csv")
    except InputError:
        return
    assert list(table) == list(history.COLUMNS)


def workbook() -> bytes:
    book, file = openpyxl.Workbook(), BytesIO()
    for row in (["FILE NAME", "URL"], ["COVID-1", "https://sirm.org"], ["COVID-2", "x"]):
        book.active.append(row)
    book.save(file)
    return file.getvalue()


@given(damaged([workbook()]))
def test_workbooks_that_are_damaged(tmp_path, content):
    (tmp_path / "COVID.metadata.xlsx").write_bytes(content)
    manifest = pd.DataFrame({"image_path": ["COVID/COVID-1.png"]})
    try:
        datasets._add_origins(manifest, tmp_path)
    except InputError as error:
        assert "COVID.metadata.xlsx" in str(error)
        return
    assert len(manifest["source"]) == 1


@given(
    st.lists(st.tuples(st.integers(0, 40), st.sampled_from("ABC")), max_size=80),
    st.integers(-1, 8),
    st.integers(-1, 8),
    st.integers(0, 2**32 - 1),
)
def test_splits(rows, n_folds, test_fold, seed):
    groups, labels = zip(*rows, strict=True) if rows else ((), ())
    table = pd.DataFrame({"group_id": [f"g{g}" for g in groups], "label": list(labels)}, dtype=str)
    try:
        found = splits.assign_split(table, n_folds, test_fold, seed)
    except InputError:
        return
    assert splits.split_overlap(found) == 0 and found["split"].isin(splits.SPLITS).all()
    assert found.equals(splits.assign_split(table, n_folds, test_fold, seed))
    assert found[["group_id", "label"]].equals(table)


OPTIONS = [option.name for option in fields(TrainConfig)]


@given(st.dictionaries(st.sampled_from([*OPTIONS, "dropout"]), JSON, max_size=4))
def test_configurations(values):
    try:
        config = TrainConfig.from_dict(values)
    except InputError as error:
        assert any(name in str(error) for name in values)
        return
    assert TrainConfig.from_dict(json.loads(json.dumps(asdict(config)))) == config
    assert 0 <= config.learning_rate <= 10 and 0 <= config.test_fold < config.folds


KNOWN = {
    "classes": ["Normal", "COVID"],
    "image_size": 64,
    "normalisation": "grey",
    "temperature": 1.5,
}


@given(st.dictionaries(st.sampled_from([*metadata.RULES, "other"]), JSON, max_size=3))
def test_checkpoint_metadata(changes):
    try:
        found = metadata.parse("model", json.dumps(KNOWN | changes))
    except InputError as error:
        assert str(error).startswith("model: ")
        return
    assert len(set(found["classes"])) >= 2 and 32 <= found["image_size"] <= 1024
    assert found["temperature"] > 0 and math.isfinite(found["temperature"])


@given(st.text() | JSON.map(json.dumps))
def test_checkpoint_metadata_of_any_text(text):
    with pytest.raises(InputError, match="^model: "):
        metadata.parse("model", text)


@given(st.binary(max_size=100) | JSON.map(lambda value: json.dumps(value).encode()))
def test_run_folders(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    (tmp_path / "manifest.csv").write_bytes(content)
    (tmp_path / "model.safetensors").write_bytes(b"")
    try:
        config, _ = runs.read_run(tmp_path)
    except InputError as error:
        assert str(tmp_path) in str(error) or "config.json" in str(error)
        return
    assert config == TrainConfig.from_dict(json.loads(content) | {})


def state_bytes(folder: Path) -> bytes:
    from torch import zeros

    from covidxr.files import write_tensors

    tensors, text = {"network.a": zeros(3)}, json.dumps({"history": [1]})
    about = {"state": text, "checksum": resume.checksum(tensors, text)}
    write_tensors(folder / "state.safetensors", tensors, about)
    return (folder / "state.safetensors").read_bytes()


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_states_whose_bits_are_flipped(tmp_path, place, bit):
    content = bytearray(state_bytes(tmp_path))
    content[place % len(content)] ^= 1 << bit
    (tmp_path / "flipped").write_bytes(content)
    try:
        tensors, rest = resume.read(tmp_path / "flipped")
    except ValueError:
        return
    assert rest == {"history": [1]}  # the bit was in the name of what is not read


@pytest.fixture(scope="module")
def run_all():
    path = Path(__file__).resolve().parent.parent / "notebooks" / "run.py"
    spec = importlib.util.spec_from_file_location("run_all", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ARGUMENTS = st.text(max_size=20) | st.builds("{}={}".format, st.sampled_from(OPTIONS), st.text())


@given(st.lists(ARGUMENTS, max_size=4))
def test_arguments_of_run_all(run_all, arguments):
    try:
        parameters = run_all.parse(arguments)
    except InputError as error:
        assert "expected name=value" in str(error)
        return
    assert set(parameters) <= set(OPTIONS)
    assume(parameters.get("data_dir") is None)
    try:
        TrainConfig(**parameters)
    except InputError as error:
        assert any(str(error).startswith(name) for name in parameters)
