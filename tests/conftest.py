import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with real radiographs for development; a test that asks for it skips without."""
    folder = Path(os.environ.get("COVIDXR_SHARED", REPO.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real radiographs not found in {folder}")
    return folder


@pytest.fixture(scope="session")
def one_thread():
    """One thread for PyTorch: on networks this small, more only wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def phantom_dir(tmp_path_factory) -> Path:
    """Sixty phantoms of 64 x 64 pixels; read them, never change them."""
    from covidxr import phantom

    folder = tmp_path_factory.mktemp("data") / "phantom"
    return phantom.generate(folder, n_images=60, image_size=64, seed=1, progress=False)


@pytest.fixture(scope="session")
def tiny_config(phantom_dir):
    from covidxr.training import TrainConfig

    return TrainConfig(data_dir=str(phantom_dir), image_size=64, epochs=1, folds=3)


@pytest.fixture(scope="session")
def tiny_run(one_thread, tiny_config, tmp_path_factory) -> Path:
    """A run of one epoch whose test split is still closed; copy it before writing into it."""
    from covidxr import runs

    work = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        return runs.train(tiny_config, work / "runs" / "tiny")


@pytest.fixture
def make_folder():
    """A function that writes a class-per-folder tree of random images, {class: number}."""

    def make(root: Path, counts: dict[str, int], side: int = 64) -> Path:
        rng = np.random.default_rng(0)
        for label, count in counts.items():
            (root / label).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (side, side), np.uint8)
                Image.fromarray(pixels).save(root / label / f"{number:02d}.png")
        return root

    return make


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    """An empty working folder, so that runs/ and data/ of the checkout stay out of sight."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.delenv("COVIDXR_DATA", raising=False)
    return work


@pytest.fixture
def listing():
    """A function that lists everything below a folder."""
    return lambda folder: sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))
