import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with real radiographs for development; tests that ask for it skip where it is absent."""
    folder = Path(os.environ.get("COVIDXR_SHARED", REPO.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real radiographs not found in {folder}")
    return folder
