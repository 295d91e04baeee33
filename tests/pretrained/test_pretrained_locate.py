"""Weights are found where other programs put them, and are what they claim to be."""

import hashlib

import pytest

from progguide_jax.pretrained import locate

CONTENT = b"weights " * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home folder, and none of the variables that move caches."""
    for name in """PROGGUIDE_WEIGHTS TORCH_HOME XDG_CACHE_HOME HF_HOME
        HF_HUB_CACHE""".split():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def put(path, content=CONTENT):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


NET = locate.WeightFile("net-12ab.pth", SHA256)
DINO = locate.WeightFile("model.safetensors", repo="facebook/dinov2-large")


@pytest.mark.parametrize(
    ("known", "place"),
    [
        (NET, ".cache/torch/hub/checkpoints/net-12ab.pth"),
        (NET, f".cache/dnnlib/downloads/{'0f' * 16}_net-12ab.pth"),
        (NET, ".cache/dnnlib/downloads/net-12ab.pth"),
        (NET, ".cache/clip/net-12ab.pth"),
        (NET, ".cache/progguide_jax/net-12ab.pth"),
        (DINO, ".cache/progguide_jax/dinov2-large/model.safetensors"),
        (DINO, ".cache/huggingface/hub/models--facebook--dinov2-large/snapshots/"
         "0a1b/model.safetensors"),
    ],
)  # fmt: skip
def test_the_usual_caches(home, known, place):
    path = put(home / place)
    put(home / ".cache/torch/hub/checkpoints/other-net-12ab.pth", b"another")
    other = locate.WeightFile("absent.pth", "0000", "a/b")
    assert locate.find([other, known]) == (str(path), SHA256)


@pytest.mark.parametrize(
    ("variable", "place"),
    [
        ("PROGGUIDE_WEIGHTS", "net-12ab.pth"),
        ("TORCH_HOME", "hub/checkpoints/net-12ab.pth"),
        ("XDG_CACHE_HOME", "torch/hub/checkpoints/net-12ab.pth"),
        ("HF_HOME", "hub/models--me--net/snapshots/1/net-12ab.pth"),
        ("HF_HUB_CACHE", "models--me--net/snapshots/1/net-12ab.pth"),
    ],
)
def test_variables_that_move_a_cache(home, tmp_path, monkeypatch, variable, place):
    path = put(tmp_path / "moved" / place)
    monkeypatch.setenv(variable, str(tmp_path / "moved"))
    assert locate.find([NET._replace(repo="me/net")]).path == str(path)


def test_the_users_folder_comes_first(home, tmp_path, monkeypatch):
    put(home / ".cache/torch/hub/checkpoints/net-12ab.pth")
    mine = put(tmp_path / "mine/net-12ab.pth")
    monkeypatch.setenv("PROGGUIDE_WEIGHTS", str(tmp_path / "mine"))
    assert locate.find([NET]).path == str(mine)


def test_only_the_right_repository(home):
    """Every repository of the hub has a model.safetensors."""
    hub = home / ".cache/huggingface/hub"
    put(hub / "models--facebook--dinov2-small/snapshots/1/model.safetensors")
    with pytest.raises(FileNotFoundError, match="facebook/dinov2-large/model.safe"):
        locate.find([DINO])
    with pytest.raises(FileNotFoundError):
        locate.find([DINO._replace(repo="facebook/*")])


def test_a_link_without_its_file_is_passed_over(home):
    snapshots = home / ".cache/huggingface/hub/models--facebook--dinov2-large/snapshots"
    (snapshots / "0").mkdir(parents=True)
    (snapshots / "0/model.safetensors").symlink_to(home / "gone")
    path = put(snapshots / "1/model.safetensors")
    assert locate.find([DINO]).path == str(path)


def test_a_given_file_may_have_any_name(home, tmp_path):
    path = put(tmp_path / "mine.bin")
    assert locate.find([NET], str(path)) == (str(path), SHA256)
    put(home / "mine.bin")
    assert locate.find([NET], "~/mine.bin").path == str(home / "mine.bin")


def test_a_given_folder(home, tmp_path):
    put(home / ".cache/torch/hub/checkpoints/net-12ab.pth")
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(FileNotFoundError, match=f"net-12ab.pth in {folder}"):
        locate.find([NET], str(folder))
    path = put(folder / "net-12ab.pth")
    assert locate.find([NET], str(folder)).path == str(path)


@pytest.mark.parametrize("digest", [SHA256, SHA256[:8], SHA256.upper(), ""])
def test_a_right_digest(home, tmp_path, digest):
    path = put(tmp_path / "net-12ab.pth")
    known = locate.WeightFile("net-12ab.pth", digest)
    assert locate.find([known], str(path)).sha256 == SHA256
    other = locate.WeightFile("net-12ab.pth", "0000")  # of the same name elsewhere
    assert locate.find([other, known._replace(sha256=SHA256)], str(path))


@pytest.mark.parametrize("name", ["net-12ab.pth", f"{'0f' * 16}_net-12ab.pth"])
def test_a_wrong_digest(home, tmp_path, name):
    path = put(tmp_path / name, CONTENT[:-1])
    wrong = hashlib.sha256(CONTENT[:-1]).hexdigest()
    for place in (path, tmp_path):
        with pytest.raises(ValueError) as caught:
            locate.find([NET], str(place))
        message = str(caught.value)
        assert message.startswith(str(path)) and "\n" not in message
        assert wrong[:16] in message and SHA256[:16] in message
        assert wrong[:17] not in message and SHA256[:17] not in message


def test_nothing_found(home, monkeypatch):
    monkeypatch.setenv("PROGGUIDE_WEIGHTS", str(home / "unknown"))
    with pytest.raises(FileNotFoundError) as caught:
        locate.find([NET, DINO])
    message = str(caught.value)
    assert "\n" not in message
    for word in (
        "net-12ab.pth, facebook/dinov2-large/model.safetensors",
        str(home / "unknown"),
        str(home / ".cache/torch/hub/checkpoints"),
        str(home / ".cache/dnnlib/downloads"),
        str(home / ".cache/clip"),
        str(home / ".cache/progguide_jax"),
        str(home / ".cache/huggingface/hub"),
        "--config.eval.weights=FILE",
    ):
        assert word in message
    with pytest.raises(FileNotFoundError, match="typo.pth does not exist"):
        locate.find([NET], "typo.pth")
