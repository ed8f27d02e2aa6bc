"""``serve``: the resync server."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from trainer.commands.answers import Answers

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), required=True, help="What the server keeps.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; beyond loopback with TLS.")
@click.option("--port", type=click.IntRange(0, 65535), default=8738, show_default=True, help="0: a free one.")
@click.option("--database", metavar="URL", help="postgresql://... or sqlite:///...; else a file in DATA. Remembered.")
@click.option(
    "--blobs", metavar="URL", help="A folder or a URL of fsspec (s3://...); else a folder in DATA. Remembered."
)
@click.option("--tls-cert", type=FILE, help="Certificate chain, PEM.")
@click.option("--tls-key", type=FILE, help="Private key of the certificate, PEM.")
@click.option("--behind-proxy", is_flag=True, help="A proxy in front of this server speaks TLS.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that answer.")
@click.pass_obj
def serve(
    answers: Answers,
    data: Path,
    host: str,
    port: int,
    database: str | None,
    blobs: str | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    behind_proxy: bool,
    workers: int,
) -> None:
    """Run the server that a fleet of devices syncs with; end it with Ctrl-C."""
    from trainer.server.enrolment import make_token
    from trainer.server.housekeeping import housekeeping, prepare
    from trainer.server.opening import open_server
    from trainer.server.serving import Listening, answer_until_stopped

    listening = Listening(host, port, tls_cert, tls_key, behind_proxy, workers)
    server = open_server(data, database=database, blobs=blobs)
    try:
        prepare(server)
        with listening.bind() as bound:
            url = listening.url(bound)
            click.echo(f"enrolment token: {make_token(server)}")
            click.echo(f"listening on {url}")
            sys.stdout.flush()
            answers.tell(f"status page: {url}/ (from elsewhere with the password in {data / 'operator_password'})")
            with housekeeping(server):
                answer_until_stopped(server, listening, bound)
    finally:
        server.close()
