"""`knowngood push` and `knowngood pull`: saved models on the Hugging Face Hub, or a server of its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from knowngood.cli.console import say
from knowngood.cli.inputs import Model
from knowngood.cli.outputs import writing

Name = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="the repository on the hub", show_default=False)]


def push(
    model: Model,
    name: Name,
    *,
    public: Annotated[bool, typer.Option("--public", help="let everyone read it; default: private")] = False,
) -> None:
    """Upload the version in use of a model to the Hugging Face Hub: JSON, safetensors, and the card as README.md.

    HF_TOKEN says who you are, HF_ENDPOINT names another server, HF_HUB_OFFLINE refuses.
    """
    from knowngood.deploy.hub import push as upload

    done = upload(model, name, public=public)
    say(f"pushed  {done.url}, commit {done.commit[:12]}")


def pull(
    name: Name,
    folder: Annotated[Path, typer.Argument(metavar="MODEL", help="the model folder to write", show_default=False)],
    *,
    revision: Annotated[
        str | None, typer.Option(metavar="COMMIT", help="a commit, tag or branch; default: main")
    ] = None,
) -> None:
    """Download a model from the Hugging Face Hub and check it; in a model folder that exists it is the next version."""
    from knowngood.deploy.hub import pull as download

    with writing(folders=[folder]):
        download(name, folder, revision=revision)
    say(f"model   {folder}")
