"""The process that answers: one address, until it is interrupted."""

from __future__ import annotations

import ipaddress
import secrets
import socket
import threading
import urllib.parse
import webbrowser
from collections.abc import Callable, Sequence

import torch
import uvicorn

from suffice.errors import InputError, reason
from suffice.occlusion import make_occlusions, painted_logits
from suffice.web.app import make_app
from suffice.web.audited import Audited
from suffice.web.served import Served

PORT = 8765
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def serve(
    models: Sequence[Served],
    *,
    host: str,
    port: int,
    token: str | None,
    browser: bool,
    say: Callable[[str], None],
    audit: Audited | None = None,
) -> None:
    """Answer until interrupted.

    Args:
        models: at least one.
        host: where to listen; elsewhere than on this machine alone, a token is needed, and made where none is given.
        port: 0 for any that is free.
        token: that visitors have to know.
        browser: open the page.
        say: called with the address of the page.
        audit: whose evidence can be tested on images, at `/audit`.

    Raises:
        InputError: an address that cannot be had.
    """
    if token is None and not is_loopback(host):
        token = secrets.token_urlsafe(18)
    listening = bound(host, port)
    port = listening.getsockname()[1]
    shown = "localhost" if host in ("0.0.0.0", "::", "") else host
    address = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/"
    if token is not None:
        address += f"?token={urllib.parse.quote(token)}"
    names = {*_LOOPBACK, host, socket.gethostname()} if token is not None else {*_LOOPBACK, host}
    app = make_app(models, hosts=sorted(names), token=token, audit=audit)
    for served in models:  # or the first page would wait for it
        served.facts()
    threading.Thread(target=_warm, args=[models], daemon=True).start()
    say(address)
    if browser:
        threading.Timer(0.5, webbrowser.open, [address]).start()
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=1, server_header=False, date_header=False
    )
    uvicorn.Server(config).run(sockets=[listening])


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches an address.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0"), is_loopback("::1")
    (True, True, False, True)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bound(host: str, port: int) -> socket.socket:
    """A socket at an address; raises InputError where it cannot be had."""
    if not 0 <= port <= 65535:
        raise InputError(f"expected --port from 0 to 65535; got {port}")
    try:
        family = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family[0], socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(family[4])
    except OSError as error:
        why = error.strerror or reason(error)
        raise InputError(
            f"expected an address to listen at; {host}:{port}: {why} (--port 0 takes any free one)"
        ) from error
    return listening


def _warm(models: Sequence[Served]) -> None:
    """Ask each model once, so that its faster copy is there before the first visitor moves a slider."""
    for served in models:
        classifier = served.classifier
        shape = (len(classifier.preprocessing.mean), *classifier.preprocessing.input_size)
        images = torch.rand((1, *shape), generator=torch.Generator().manual_seed(0))
        background = make_occlusions(classifier, "min")[0].background
        assert background is not None
        mask = torch.zeros(1, *shape[1:], dtype=torch.bool)
        painted_logits(classifier, images, mask, background(images).expand(images.shape), screen=True)
