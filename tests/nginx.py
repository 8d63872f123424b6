"""Starts a real nginx with the configuration in ``uwsgi-configs``."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from uwsgi_server import ROOT, free_port, wait_for_port

CONFIG = ROOT / "uwsgi-configs" / "nginx.conf"

# What Debian's /etc/nginx/nginx.conf is around ours.
MAIN = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
{user}
worker_processes 1;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {directives}
    include {folder}/site.conf;
}}
"""


class Nginx:
    """An nginx in front of a socket file.

    :param folder: for its files.
    :param socket: uWSGI's.
    :param directives: more of them, for all its servers.
    :param certificate: the files of a certificate and its key, to listen with TLS.
    """

    def __init__(
        self,
        folder: Path,
        socket: Path,
        directives: str = "",
        certificate: tuple[str, str] | None = None,
    ) -> None:
        self._folder, self._socket, self._directives = folder, socket, directives
        self._certificate = certificate

    def __enter__(self) -> Nginx:
        program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
        if program is None:
            raise RuntimeError("no nginx found: apt-get install nginx-light")
        self._folder.mkdir(exist_ok=True)
        self.port = free_port()
        site = CONFIG.read_text()
        listen = f"listen 127.0.0.1:{self.port};"
        if self._certificate is not None:
            listen = (
                f"listen 127.0.0.1:{self.port} ssl; ssl_certificate {self._certificate[0]}; "
                f"ssl_certificate_key {self._certificate[1]};"
            )
        for placeholder, ours in (
            ("/run/echo/http.sock", str(self._socket)),
            ("listen 80;", listen),
        ):
            assert placeholder in site
            site = site.replace(placeholder, ours)
        (self._folder / "site.conf").write_text(site)
        # As another user its workers could not reach what is in the folder.
        user = "user root;" if os.geteuid() == 0 else ""
        main = MAIN.format(folder=self._folder, user=user, directives=self._directives)
        (self._folder / "nginx.conf").write_text(main)
        log = self._folder / "error.log"
        self.process = subprocess.Popen(
            [program, "-e", str(log), "-c", str(self._folder / "nginx.conf")]
        )
        wait_for_port(self.port, self.process)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(15)
