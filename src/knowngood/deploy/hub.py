"""Saved models to and from the Hugging Face Hub, or another server of its kind: JSON, safetensors, Markdown."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from knowngood.config.version import __version__
from knowngood.detector.model_folder import CARD, TRAINING, read, unpack
from knowngood.detector.versions import CONFIG, fingerprint, in_use, save_version
from knowngood.errors import ArtifactError, KnowngoodError, OutputError, SettingsError

FILES = (CONFIG, CARD, TRAINING, "*.safetensors")  # of a version; nothing else goes either way
README = "README.md"
NAME = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")


class Pushed(NamedTuple):
    """Where a model lies on the hub, and by which commit."""

    url: str
    commit: str


def push(model: Path, name: str, *, public: bool = False) -> Pushed:
    """Upload the version in use, with its card as README.md. A new repository is private unless `public`.

    Raises:
        ArtifactError: there is no sound model. SettingsError: the name is wrong, the hub is switched off, the
            repository is public and that was not asked for. OutputError: the hub refuses, or cannot be reached.
    """
    folder = in_use(model)
    unpack(read(folder), str(folder))  # refuses what is damaged; a backbone of your own need not be here
    api = _hub(name)
    with tempfile.TemporaryDirectory(prefix="knowngood-") as place, _explained(name):
        for path in _files(folder):
            (Path(place) / path.name).write_bytes(path.read_bytes())
        (Path(place) / README).write_text(readme(folder), encoding="utf-8")
        api.create_repo(name, private=not public, exist_ok=True)
        if not public and not api.repo_info(name).private:
            raise SettingsError(f"{name} is public on the hub; give --public if that is meant, or another name")
        what = f"knowngood {__version__}, version {folder.name}, {fingerprint(folder)}"
        done = api.upload_folder(repo_id=name, folder_path=place, commit_message=what, delete_patterns=list(FILES))
    return Pushed(f"{api.endpoint}/{name}", done.oid)


def pull(name: str, folder: Path, *, revision: str | None = None) -> Path:
    """Download a model, check it as every saved model is checked, and add it to a model folder as its next version.

    Raises:
        ArtifactError: what lies there is no sound model of knowngood; `folder` holds something else.
        SettingsError: the name is wrong, or the hub is switched off. OutputError: the hub cannot be reached.
    """
    api = _hub(name)
    with tempfile.TemporaryDirectory(prefix="knowngood-") as place:
        with _explained(name):
            api.snapshot_download(name, revision=revision, local_dir=place, allow_patterns=list(FILES))
        if not (Path(place) / CONFIG).is_file():
            raise ArtifactError(f"{name} is no model of knowngood: it has no {CONFIG}")
        unpack(read(place), place)
        return save_version(folder, {path.name: path.read_bytes() for path in _files(Path(place))})


def readme(folder: Path) -> str:
    """The page of the hub: the model card, below what the hub wants to know of it."""
    card = (folder / CARD).read_text(encoding="utf-8")
    about = ["library_name: knowngood", "tags:", "- anomaly-detection", "- visual-inspection", "- conformal-prediction"]
    use = "knowngood pull {this repository} runs/parts\nknowngood score runs/parts today"
    return "\n".join(["---", *about, "---", card.rstrip(), "", "```bash", use, "```", ""])


def _files(folder: Path) -> Iterator[Path]:
    for pattern in FILES:
        yield from sorted(path for path in folder.glob(pattern) if path.is_file() and not path.is_symlink())


def _hub(name: str) -> Any:
    """The client, without telemetry."""
    if not NAME.fullmatch(name):
        raise SettingsError(f"'{name:.100}' is no name on the hub; expected OWNER/NAME, such as factory/parts")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import huggingface_hub
        from huggingface_hub import constants
    except ImportError:
        raise SettingsError("push and pull need huggingface-hub: pip install 'knowngood[hub]'") from None
    constants.HF_HUB_DISABLE_TELEMETRY = True
    if constants.HF_HUB_OFFLINE:
        raise SettingsError("HF_HUB_OFFLINE is set: nothing is sent or fetched; unset it to push or pull")
    return huggingface_hub.HfApi(library_name="knowngood", library_version=__version__)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Within, an error of the hub or of the network is one of ours, whichever client the hub's library uses."""
    from huggingface_hub.errors import HFValidationError

    try:
        yield
    except KnowngoodError:
        raise
    except HFValidationError as error:
        raise SettingsError(f"{name}: {error}") from None
    except Exception as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise OutputError(f"{name}: the hub answers {reason} Is the name right, and HF_TOKEN set?") from error
