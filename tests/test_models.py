"""One grey channel through an ImageNet network; checkpoints that cannot run code."""

import json
from urllib.error import URLError

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torchvision.models import ResNet18_Weights, resnet18

from covidxr import InputError, metadata
from covidxr.models import (
    MEAN,
    STD,
    build_model,
    fold_batch_norm,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)

pytestmark = pytest.mark.usefixtures("one_thread")

METADATA = {
    "classes": ["Normal", "COVID"],
    "image_size": 64,
    "normalisation": "any",
    "temperature": 1.25,
    "threshold": None,
}


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 1, 64, 64), generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def colour_model():
    """Torchvision's own ResNet18 with weights and statistics that depend on the channel."""
    torch.manual_seed(1)
    model = resnet18(num_classes=1000)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
    return model.eval()


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    model = build_model(2).eval()
    save_checkpoint(tmp_path / "model.safetensors", model, METADATA)
    return model, tmp_path / "model.safetensors"


def patch_download(monkeypatch, result) -> None:
    """Let the download of the ImageNet weights return, or raise, `result`."""

    def get_state_dict(self, *, check_hash, **_):
        assert self is ResNet18_Weights.IMAGENET1K_V1 and check_hash
        if isinstance(result, Exception):
            raise result
        return dict(result)

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", get_state_dict)


def test_shapes(images):
    model = build_model(3).eval()
    assert model.features(images).shape == (3, 512)
    assert model(images).shape == (3, 3) and model(images).dtype == torch.float32
    assert model(torch.rand(2, 1, 96, 128)).shape == (2, 3)


def test_uint8_and_float_inputs_agree(images):
    model = build_model(3).eval()
    torch.testing.assert_close(model(images), model(images.float() / 255), rtol=0, atol=0)


@torch.inference_mode()
def test_grey_channel_equals_three_copies_through_torchvision(colour_model, images, monkeypatch):
    patch_download(monkeypatch, colour_model.state_dict())
    model = build_model(1000, "imagenet").eval()
    model.fc.load_state_dict(colour_model.fc.state_dict())
    colour = (images.float() / 255).expand(-1, 3, -1, -1)
    expected = colour_model((colour - MEAN) / STD)
    assert expected.std() > 0.01
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)


def test_imagenet_weights_come_with_a_new_head(colour_model, monkeypatch):
    patch_download(monkeypatch, colour_model.state_dict())
    model = build_model(3, "imagenet")
    torch.testing.assert_close(model.layer4[1].conv2.weight, colour_model.layer4[1].conv2.weight)
    assert model.fc.weight.shape == (3, 512) and model.fc.weight.abs().max() > 0
    assert not any(key.startswith("fc.") for key in load_weights("imagenet"))


@pytest.mark.parametrize(
    "error", [URLError("offline"), RuntimeError("invalid hash value"), OSError("disk full")]
)
def test_imagenet_weights_that_cannot_be_had(monkeypatch, error):
    patch_download(monkeypatch, error)
    with pytest.raises(InputError) as raised:
        build_model(3, "imagenet")
    text = str(raised.value)
    assert ResNet18_Weights.IMAGENET1K_V1.url in text and "checkpoints" in text
    assert str(error) in text and "\n" not in text and "'none'" in text


@pytest.mark.parametrize("name", ["ImageNet", "resnet18", "runs/absent/model.safetensors", ""])
def test_unknown_weights(name):
    with pytest.raises(
        InputError, match="neither 'phantom', 'imagenet', 'none' nor the path"
    ) as error:
        build_model(3, name)
    assert repr(name) in str(error.value)


def test_no_weights_are_random():
    torch.manual_seed(0)
    first = build_model(3).conv1.weight
    second = build_model(3).conv1.weight
    torch.manual_seed(0)
    assert torch.equal(first, build_model(3).conv1.weight) and not torch.equal(first, second)
    assert load_weights("none") == {}


def test_weights_of_a_path_keep_the_backbone_and_renew_the_head(checkpoint):
    model, path = checkpoint
    new = build_model(3, str(path))
    for key, value in new.state_dict().items():
        if not key.startswith("fc."):
            assert torch.equal(value, model.state_dict()[key]), key
    assert new.fc.weight.shape == (3, 512)
    assert not torch.equal(build_model(2, str(path)).fc.weight, model.fc.weight)


def test_save_and_load_give_the_same_bits(checkpoint, images):
    model, path = checkpoint
    loaded, found = load_checkpoint(path)
    assert found == metadata.DEFAULTS | METADATA and not loaded.training
    assert torch.equal(loaded(images), model(images))
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]


def test_loading_draws_no_random_numbers(checkpoint):
    state = torch.get_rng_state()
    load_checkpoint(checkpoint[1])
    assert torch.equal(torch.get_rng_state(), state)


def test_a_failed_save_leaves_the_old_checkpoint(checkpoint, monkeypatch):
    model, path = checkpoint
    before = path.read_bytes()

    def fail(state, temporary, _):
        temporary.write_bytes(b"half")
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
        save_checkpoint(path, model, METADATA)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_a_missing_checkpoint(tmp_path):
    with pytest.raises(InputError, match="no checkpoint here; train one"):
        load_checkpoint(tmp_path / "absent.safetensors")


@pytest.mark.parametrize("content", ["pickle", b"", b"not a checkpoint", b"\xff" * 64])
def test_what_is_not_safetensors_is_refused(tmp_path, content, monkeypatch):
    path = tmp_path / "model.safetensors"
    if content == "pickle":
        torch.save(build_model(2).state_dict(), path)
    else:
        path.write_bytes(content)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))
    for read in (load_checkpoint, load_weights):
        with pytest.raises(InputError, match="not a safetensors file"):
            read(str(path))


def test_a_checkpoint_of_someone_else(tmp_path):
    save_file({"x": torch.zeros(2)}, tmp_path / "plain.safetensors")
    with pytest.raises(InputError, match="not a covidxr checkpoint.*classes"):
        load_checkpoint(tmp_path / "plain.safetensors")


@pytest.mark.parametrize("missing", metadata.REQUIRED)
def test_missing_metadata_is_named(checkpoint, missing):
    model, path = checkpoint
    save_checkpoint(path, model, {k: v for k, v in METADATA.items() if k != missing})
    with pytest.raises(InputError, match=rf"metadata lacks \['{missing}'\]"):
        load_checkpoint(path)


def test_tensors_that_do_not_fit_are_named(checkpoint):
    model, path = checkpoint
    save_checkpoint(path, model, METADATA | {"classes": ["Normal", "Lung_Opacity", "COVID"]})
    with pytest.raises(InputError, match="2 tensors do not fit.*Lung_Opacity.*fc.bias"):
        load_checkpoint(path)
    state = {k: v.contiguous() for k, v in model.state_dict().items() if "layer1" not in k}
    state["extra"] = torch.zeros(1)
    save_file(state, path, metadata={"covidxr": json.dumps(METADATA)})
    with pytest.raises(InputError, match="tensors do not fit.*the first is extra"):
        load_checkpoint(path)


def test_folded_normalisation_gives_the_same_logits(images):
    torch.manual_seed(1)
    model = build_model(3).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias.data):
                tensor.uniform_(-0.5, 0.5)
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.5, 1.5)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = fold_batch_norm(model)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert folded.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected, found = model(images), folded(images)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
