"""`knowngood serve`: models behind HTTP."""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from knowngood.cli.bounds import Bounds, with_bounds
from knowngood.cli.console import note, say
from knowngood.cli.inputs import Device
from knowngood.cli.keep_options import MOST, KeepMost, beside, kept
from knowngood.cli.sink_options import To, opened, sinks_of
from knowngood.errors import Interrupted, SettingsError

GRACE = 120  # seconds that what was accepted has to be answered at the end
NEEDED = ("fastapi", "uvicorn", "prometheus_client", "python_multipart")


@with_bounds
def serve(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...", help="folders that `train` wrote, or files that `export` wrote; NAME=PATH gives a name"
        ),
    ],
    *,
    host: Annotated[str, typer.Option(help="the address to listen on; default: this machine alone")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="the port; 0: any that is free")] = 8000,
    keys: Annotated[
        Path | None, typer.Option(metavar="FILE", help="accept only requests with a key of this file")
    ] = None,
    new_key: Annotated[
        str | None, typer.Option(metavar="NAME", help="print a new key, add its digest to --keys, and stop")
    ] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="let web pages of this origin use it: https://example.org; repeatable"),
    ] = None,
    queue: Annotated[int, typer.Option(min=1, help="images held at a time; beyond it requests get status 503")] = 256,
    batch: Annotated[int, typer.Option(min=1, help="images that are scored together")] = 32,
    max_body_mb: Annotated[float, typer.Option(min=0.001, help="largest request, in MB; beyond it status 413")] = 64,
    to: To = None,
    state: Annotated[Path, typer.Option(metavar="FILE", help="with --to: what is not delivered yet")] = Path(
        ".knowngood-serve.sqlite"
    ),
    keep: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="where judged images are kept for the page; MODEL-judged")
    ] = None,
    no_keep: Annotated[bool, typer.Option("--no-keep", help="keep no image")] = False,
    keep_most: KeepMost = MOST,
    device: Device = None,
    bounds: Bounds,
) -> None:
    """Serve models over HTTP: a page at /, POST /v1/score and /v1/explain; /docs lists all. Logs are JSON lines on
    stderr.

    A new version of a model is taken into use within seconds. SIGTERM and Ctrl-C end it once everything that was
    accepted is answered.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise SettingsError(f"serve needs {', '.join(missing)}: pip install 'knowngood[serve]'")
    from knowngood.deploy.keys import add_key, read_keys

    if new_key is not None:
        if keys is None:
            raise SettingsError("--new-key needs the --keys FILE that the key is added to")
        say(add_key(keys, new_key))
        note(f"this is the only time that the key is shown; {keys} holds its SHA-256")
        return
    if keep is not None and no_keep:
        raise SettingsError(f"--keep {keep} and --no-keep contradict each other; give one of them")
    if no_keep and keep_most != MOST:
        raise SettingsError(f"--keep-most {keep_most} and --no-keep contradict each other; give one of them")
    digests = {} if keys is None else read_keys(keys)
    sinks_of(to)  # what is wrong with them is said before a model is loaded
    listener = _bound(host, port)
    address = listener.getsockname()
    if not digests and not (address[0] == "::1" or address[0].startswith("127.")):
        note(f"warning: everyone who reaches {host} can use this server; give --keys FILE")

    import uvicorn

    from knowngood.deploy.logs import event, written_logs
    from knowngood.deploy.served_models import load_models
    from knowngood.deploy.server import ServerOptions, create_app

    with ExitStack() as stack:
        stack.enter_context(listener)
        stack.enter_context(written_logs(sys.stderr))
        bounds.over()  # refuses what is no bound
        served = load_models(models, device or "cpu", bounds)
        folder = None if no_keep else keep or beside(next(iter(served.values())).path)
        options = ServerOptions(
            keys=digests,
            origins=tuple(cors or ()),
            body=int(max_body_mb * 1e6),
            queue=queue,
            batch=batch,
            sink=stack.enter_context(opened(to, state)).add if to else None,
            store=stack.enter_context(kept(folder, keep_most)),
        )
        config = uvicorn.Config(
            create_app(served, options),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE,
        )
        try:
            listener.listen(config.backlog)
        except OSError as error:  # of two servers that start at a time both are bound
            raise _taken(host, port, error) from None
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        event("listening", url=f"http://{shown}:{address[1]}", models=list(served), keeps=folder and str(folder))
        with suppress(Interrupted):  # to be asked to end is how a server ends
            uvicorn.Server(config).run(sockets=[listener])


def _bound(host: str, port: int) -> socket.socket:
    """A socket at this address, which does not listen yet.

    Raises:
        SettingsError: the address is wrong or in use.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)  # for TCP asyncio sends without delay
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, UnicodeError) as error:  # of a name that no host can have
        raise _taken(host, port, error) from None
    return listener


def _taken(host: str, port: int, error: Exception) -> SettingsError:
    reason = getattr(error, "strerror", None) or error
    return SettingsError(f"--host {host} --port {port}: {reason}; choose another --port or --host")
