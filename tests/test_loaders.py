"""From files to batches: the cache never lies, the order is seeded, the augmentation is safe."""

import errno
import os
import shutil
from collections import namedtuple

import numpy as np
import pytest
import torch
from PIL import Image

from covidxr import InputError, loaders
from covidxr.images import RejectedImage
from covidxr.loaders import Augment, XrayDataset, class_weights, decode, make_loader, read_square


@pytest.fixture
def paths(tmp_path, make_folder):
    return sorted(make_folder(tmp_path / "images", {"A": 3, "B": 2}, side=70).rglob("*.png"))


def numbered(n: int = 10, targets=None) -> XrayDataset:
    """A dataset whose every pixel is the row number."""
    pixels = np.repeat(np.arange(n, dtype=np.uint8), 64).reshape(n, 8, 8)
    return XrayDataset(pixels, np.arange(n) % 2 if targets is None else targets)


def rows_of(loader) -> list[list[int]]:
    return [images[:, 0, 0, 0].tolist() for images, _ in loader]


def test_cache_equals_reading_the_files(paths, tmp_path, monkeypatch):
    direct = np.stack([read_square(path, 64) for path in paths])
    first, rejected = decode(paths, 64, tmp_path / "cache")
    assert first.dtype == np.uint8 and first.shape == (5, 64, 64) and rejected == {}
    np.testing.assert_array_equal(first, direct)
    monkeypatch.setattr(loaders, "read_image", lambda path: pytest.fail("decoded again"))
    np.testing.assert_array_equal(decode(paths, 64, tmp_path / "cache")[0], direct)


def test_cached_pixels_are_read_only(paths, tmp_path):
    with pytest.raises(ValueError, match="read-only"):
        decode(paths, 64, tmp_path)[0][0] = 1


def test_cache_notices_a_file_of_new_content(paths, tmp_path):
    before = decode(paths, 64, tmp_path)[0].copy()
    Image.fromarray(255 - np.asarray(Image.open(paths[1]))).save(paths[1])
    after = decode(paths, 64, tmp_path)[0]
    np.testing.assert_array_equal(after[1], read_square(paths[1], 64))
    assert not np.array_equal(after[1], before[1])
    np.testing.assert_array_equal(after[[0, 2, 3, 4]], before[[0, 2, 3, 4]])


def test_cache_notices_a_new_time_size_or_order(paths, tmp_path):
    decode(paths, 64, tmp_path)
    found = paths[0].stat()
    os.utime(paths[0], ns=(found.st_atime_ns, found.st_mtime_ns + 1))
    decode(paths, 64, tmp_path)
    assert decode(paths, 32, tmp_path)[0].shape == (5, 32, 32)
    reverse = decode(paths[::-1], 64, tmp_path)[0]
    np.testing.assert_array_equal(reverse[0], read_square(paths[-1], 64))
    assert len(list(tmp_path.glob("*.npy"))) == 4


def test_rejected_files_are_named_and_the_others_intact(paths, tmp_path):
    paths[2].write_bytes(b"")
    missing = tmp_path / "missing.png"
    for _ in range(2):  # decoded, then from the cache
        pixels, rejected = decode([*paths, missing], 64, tmp_path / "cache")
        assert rejected.keys() == {2, 5} and rejected[2] == "empty file"
        assert rejected[5].startswith("cannot be opened")
        assert not pixels[2].any() and not pixels[5].any()
        for row in (0, 1, 3, 4):
            np.testing.assert_array_equal(pixels[row], read_square(paths[row], 64))


def test_read_square_returns_the_rejection(tmp_path):
    rejection = read_square(tmp_path / "missing.png", 64)
    assert isinstance(rejection, RejectedImage) and rejection.path == tmp_path / "missing.png"


def test_an_error_leaves_no_file_behind(paths, tmp_path, monkeypatch):
    def fail(path, size):
        if path == paths[3]:
            raise MemoryError("injected")
        return np.zeros((size, size), np.uint8)

    monkeypatch.setattr(loaders, "read_square", fail)
    with pytest.raises(MemoryError, match="injected"):
        decode(paths, 64, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_full_disk_is_said_before_decoding(paths, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**6, 10**6, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(InputError, match="needs 0 MB and the disk has 0 MB free"):
        decode(paths, 64, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_said(paths, tmp_path):
    (tmp_path / "runs").write_text("in the way")
    with pytest.raises(InputError, match="runs/cache: cannot be made"):
        decode(paths, 64, tmp_path / "runs" / "cache")


def test_images_that_vanish_while_they_are_read_leave_no_cache(paths, tmp_path, monkeypatch):
    read_square = loaders.read_square

    def vanish(path, size):
        path.unlink(missing_ok=True)
        return read_square(path, size)

    before = [path.read_bytes() for path in paths]
    with monkeypatch.context() as patch:
        patch.setattr(loaders, "read_square", vanish)
        with pytest.raises(InputError, match="images: images changed or vanished"):
            decode(paths, 64, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    for path, content in zip(paths, before, strict=True):
        path.write_bytes(content)
    assert decode(paths, 64, tmp_path / "cache")[1] == {}


def test_a_disk_that_fills_up_is_said(paths, tmp_path, monkeypatch):
    def full(path, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(loaders, "read_square", full)
    with pytest.raises(InputError, match=r"\.npy: cannot be written \(No space left on device\)"):
        decode(paths, 64, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_a_killed_process_left_is_cleared(paths, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / ".abc.1.part.npy").write_bytes(b"half")
    decode(paths, 64, tmp_path / "cache")
    assert sorted(p.suffix for p in (tmp_path / "cache").iterdir()) == [".json", ".npy"]


def test_items_and_batches():
    dataset = numbered(10)
    image, target = dataset[3]
    assert image.shape == (1, 8, 8) and image.dtype == torch.uint8 and image[0, 0, 0] == 3
    assert target.shape == () and target.dtype == torch.int64 and target == 1
    images, targets = next(iter(make_loader(dataset, 4)))
    assert images.shape == (4, 1, 8, 8) and images.dtype == torch.uint8
    assert targets.tolist() == [0, 1, 0, 1] and targets.dtype == torch.int64


def test_items_of_features_own_their_memory():
    features = np.arange(6, dtype=np.float32).reshape(3, 2)
    item, _ = XrayDataset(features, [0, 1, 0])[1]
    item += 100
    assert item.tolist() == [102, 103] and features[1].tolist() == [2, 3]


def test_inputs_and_targets_must_be_as_many():
    with pytest.raises(InputError, match="3 inputs but 2 targets"):
        XrayDataset(np.zeros((3, 8, 8), np.uint8), [0, 1])


def test_order_is_kept_outside_training():
    assert rows_of(make_loader(numbered(10), 4)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert rows_of(make_loader(numbered(9), 4))[-1] == [8]  # a lone last image is predicted too


def test_shuffle_follows_the_seed_and_shows_every_image_once():
    def epochs(seed):
        loader = make_loader(numbered(30), 8, train=True, seed=seed)
        return [sum(rows_of(loader), []) for _ in range(2)]

    first = epochs(0)
    assert first == epochs(0) and first != epochs(1)
    assert first[0] != first[1] != list(range(30))
    assert sorted(first[0]) == sorted(first[1]) == list(range(30))


@pytest.mark.parametrize(("n", "sizes"), [(9, [4, 5]), (10, [4, 4, 2]), (8, [4, 4]), (1, [1])])
def test_a_lone_last_training_image_joins_the_batch_before(n, sizes):
    loader = make_loader(numbered(n), 4, train=True)
    assert [len(batch) for batch in rows_of(loader)] == sizes and len(loader) == len(sizes)


@pytest.mark.parametrize("n", [8, 10, 11, 13, 30])
def test_processes_share_every_training_batch(n):
    whole = rows_of(make_loader(numbered(n), 6, train=True, seed=2))
    parts = [
        rows_of(make_loader(numbered(n), 6, train=True, seed=2, shard=(rank, 2)))
        for rank in range(2)
    ]
    assert len(parts[0]) == len(parts[1])
    assert min(len(batch) for part in parts for batch in part) >= 2
    assert sorted(sum(parts[0] + parts[1], [])) == sorted(sum(whole, [])) == list(range(n))


def test_processes_take_whole_batches_in_turn_outside_training():
    parts = [rows_of(make_loader(numbered(10), 3, shard=(rank, 2))) for rank in range(2)]
    assert parts == [[[0, 1, 2], [6, 7, 8]], [[3, 4, 5], [9]]]


def test_rows_choose_without_copying(paths, tmp_path):
    pixels, _ = decode(paths, 32, tmp_path)
    dataset = XrayDataset(pixels, np.arange(5), rows=[4, 1])
    assert np.shares_memory(dataset.inputs, pixels) and dataset.targets.tolist() == [4, 1]
    for _ in range(2):  # the memory map's pages are let go after each batch, and come back
        images, targets = dataset[[1, 0]]
        np.testing.assert_array_equal(images[:, 0].numpy(), pixels[[1, 4]])
        assert targets.tolist() == [1, 4]


def test_cached_and_uncached_batches_are_identical(paths, tmp_path):
    cached, _ = decode(paths, 32, tmp_path)
    direct = np.stack([read_square(path, 32) for path in paths])
    batches = [
        [images for images, _ in make_loader(XrayDataset(inputs, np.arange(5)), 2, train=True)]
        for inputs in (cached, direct)
    ]
    assert len(batches[0]) == 2 and all(map(torch.equal, *batches))


def test_balanced_sampler_draws_every_class_as_often():
    targets = np.repeat([0, 1, 2], [900, 90, 10])
    dataset = XrayDataset(np.zeros((1000, 1), np.float32), targets)
    loader = make_loader(dataset, 100, train=True, balanced=True)
    drawn = torch.cat([targets for _ in range(6) for _, targets in loader])
    assert len(drawn) == 6000
    shares = torch.bincount(drawn) / len(drawn)
    assert torch.allclose(shares, torch.full((3,), 1 / 3), atol=0.025)  # 4 standard errors


def test_class_weights_by_hand():
    weights = class_weights(np.repeat([0, 1, 2], [6, 3, 1]), 3)
    torch.testing.assert_close(weights, torch.tensor([10 / 18, 10 / 9, 10 / 3]))
    assert weights[torch.tensor([0] * 6 + [1] * 3 + [2])].mean().item() == pytest.approx(1)


@pytest.fixture(scope="module")
def batch() -> torch.Tensor:
    """Four noisy films whose left half is bright."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 80, (4, 1, 32, 32), generator=generator, dtype=torch.uint8)
    images[..., :16] += 150
    return images


def test_augment_gives_floats_between_0_and_1(batch):
    torch.manual_seed(0)
    out = Augment()(batch)
    assert out.shape == batch.shape and out.dtype == torch.float32
    assert out.min() >= 0 and out.max() <= 1 and out.std() > 0.1
    torch.manual_seed(0)
    torch.testing.assert_close(Augment()(batch.float() / 255), out, rtol=0, atol=0)


def test_augment_follows_the_seed_and_differs_by_image(batch):
    def draw(seed):
        torch.manual_seed(seed)
        return Augment()(batch[:1].expand(4, -1, -1, -1))

    assert torch.equal(draw(0), draw(0)) and not torch.equal(draw(0), draw(1))
    assert not torch.allclose(draw(0)[0], draw(0)[1], atol=0.01)


def test_augment_of_no_width_changes_nothing(batch):
    still = Augment(degrees=0, shift=0, scale=0, contrast=0)
    torch.testing.assert_close(still(batch), batch.float() / 255, rtol=0, atol=1e-5)


@pytest.mark.parametrize("width", ["degrees", "shift", "scale", "contrast"])
def test_each_width_of_augment_acts(batch, width):
    still = dict.fromkeys(("degrees", "shift", "scale", "contrast"), 0)
    torch.manual_seed(0)
    out = Augment(**still | {width: 10 if width == "degrees" else 0.1})(batch)
    assert not torch.allclose(out, batch.float() / 255, atol=0.01)


def test_augment_rotates_by_its_angle(monkeypatch):
    """A bright bar left of the centre, turned by +-90 degrees, stands above or below it."""
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.ones(shape))
    bar = torch.zeros(1, 1, 32, 32)
    bar[..., 14:18, 2:6] = 1
    turned = Augment(degrees=90, shift=0, scale=0, contrast=0)(bar)
    row, column = divmod(int(turned.flatten().argmax()), 32)
    assert 14 <= column < 18 and (2 <= row < 6 or 26 <= row < 30)
    assert turned.sum().item() == pytest.approx(16, abs=0.1)


def test_augment_never_flips(batch):
    torch.manual_seed(0)
    out = Augment()(batch[:1].expand(200, -1, -1, -1))
    assert (out[..., :12].mean(dim=(1, 2, 3)) > out[..., 20:].mean(dim=(1, 2, 3))).all()
