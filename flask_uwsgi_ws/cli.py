"""``flask uwsgi``: run an app, show its WebSocket routes, look for what is wrong, build uWSGI."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import click
from flask import Flask, current_app
from flask.cli import AppGroup, NoAppException, ScriptInfo, pass_script_info
from flask.helpers import get_debug_flag

from . import doctor, install, runner
from .extension import EXTENSION, WebSocket

LOADER = "flask_uwsgi_ws.wsgi"

uwsgi = AppGroup("uwsgi", help="Serve WebSockets with uWSGI.")


class _Passing(click.Command):
    """A command whose last arguments are options of uWSGI's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            message = f"No such option {error.option_name!r}; uWSGI's own options come after '--'"
            raise click.UsageError(message, ctx) from None


def websocket_of(app: Flask) -> WebSocket:
    """Give an app's extension.

    :param app: the app.
    :raises click.ClickException: if it has none.
    """
    state = app.extensions.get(EXTENSION)
    if state is None:
        raise click.ClickException(
            f"{app.name!r} has no WebSocket extension: make one, websocket = WebSocket(app); "
            "'flask run' and the uwsgi command serve it without"
        )
    websocket: WebSocket = state.websocket
    return websocket


def _set_debug(_: click.Context, __: click.Parameter, value: bool | None) -> bool:
    # Before the app is loaded, which may look at it.
    if value is None:
        value = get_debug_flag() or runner.debug_wanted()
    os.environ["FLASK_DEBUG"] = "1" if value else "0"
    if not value:
        os.environ.pop(runner.DEBUG, None)
    return value


def _location(info: ScriptInfo, app: Flask, debug: bool) -> Mapping[str, Any]:
    """Say in uWSGI's options how the app is loaded."""
    if info.create_app is not None:
        # A command of the app's own, with a factory that has no name.
        return runner.locate(app)
    # Not in uWSGI's options, which it would look for placeholders in.
    os.environ["FLASK_DEBUG"] = f"{debug:d}"
    if info.app_import_path:
        os.environ["FLASK_APP"] = info.app_import_path
    return {"module": LOADER, "callable": "app"}


@uwsgi.command("run", cls=_Passing, short_help="Serve the app with uWSGI.", with_appcontext=False)
@click.option("-h", "--host", default="localhost", show_default=True, help="Where to listen.")
@click.option("-p", "--port", default=5000, show_default=True, help="Where to listen.")
@click.option(
    "--debug/--no-debug",
    default=None,
    callback=_set_debug,
    help="Show the debugger, and reload when a file changes; as flask --debug.",
)
@click.option("--cert", metavar="FILE", help="A certificate, for https and wss, or 'adhoc'.")
@click.option("--key", metavar="FILE", help="The key of the certificate.")
@click.option("--ssl", type=click.Choice(["adhoc"]), help="Make a certificate.")
@click.option("--gevent", type=int, metavar="N", help="Serve N requests at a time by gevent.")
@click.option("--asyncio", type=int, metavar="N", help="Serve N requests at a time by asyncio.")
@click.option("--threads", type=int, metavar="N", help="Serve N requests at a time in threads.")
@click.option("--processes", type=int, metavar="N", help="Start N workers.")
@click.argument("uwsgi_options", nargs=-1, type=click.UNPROCESSED)
@pass_script_info
def run_command(
    info: ScriptInfo,
    /,
    host: str,
    port: int,
    debug: bool,
    cert: str | None,
    key: str | None,
    ssl: str | None,
    uwsgi_options: tuple[str, ...],
    **numbers: int | None,
) -> None:
    """Serve the app and its WebSockets, as app.run does.

    Options of uWSGI's own come after "--":

        flask --app hello uwsgi run --threads 4 -- --stats 127.0.0.1:9191
    """
    options: dict[str, Any] = {name: value for name, value in numbers.items() if value is not None}
    if ssl or cert == "adhoc":
        options["ssl_context"] = "adhoc"
    elif cert or key:
        if not (cert and key):
            raise click.UsageError("--cert and --key go together; or use --ssl adhoc")
        options["ssl_context"] = (cert, key)
    app = info.load_app()
    websocket = websocket_of(app)
    try:
        given = runner.read_arguments(runner.find_uwsgi(), uwsgi_options)
        options.update(websocket.uwsgi_defaults({**given, **options}))
        location = _location(info, app, debug)
        command = runner.build_command(
            app, debug, host, port, None, options, uwsgi_options, location
        )
        runner.become(command)
    except runner.RunError as error:
        raise click.ClickException(str(error)) from None


@uwsgi.command("routes", short_help="Show the WebSocket routes.")
def routes_command() -> None:
    """Show the app's WebSocket routes, with their endpoints."""
    rules = [rule for rule in current_app.url_map.iter_rules() if rule.websocket]
    if not rules:
        click.echo("No WebSocket routes were registered.")
        return
    host_matching = current_app.url_map.host_matching
    rows = sorted(
        (rule.endpoint, (rule.host if host_matching else rule.subdomain) or "", rule.rule)
        for rule in rules
    )
    has_domain = any(domain for _, domain, _ in rows)
    rows.insert(0, ("Endpoint", "Host" if host_matching else "Subdomain", "Rule"))
    columns = [column for i, column in enumerate(zip(*rows, strict=True)) if i != 1 or has_domain]
    widths = [max(map(len, column)) for column in columns]
    columns = [(c[0], "-" * width, *c[1:]) for c, width in zip(columns, widths, strict=True)]
    for row in zip(*columns, strict=True):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


@uwsgi.command(
    "doctor",
    cls=_Passing,
    short_help="Look for what keeps WebSockets from working.",
    with_appcontext=False,
)
@click.option("--ini", metavar="FILE", help="A configuration of uWSGI's to look at.")
@click.argument("uwsgi_options", nargs=-1, type=click.UNPROCESSED)
@pass_script_info
def doctor_command(info: ScriptInfo, /, ini: str | None, uwsgi_options: tuple[str, ...]) -> None:
    """Look for what keeps WebSockets from working, and say what to do.

    Looks at uWSGI, the package and the limits of the system, at the app if there is one, and at
    options of uWSGI's, which come after "--":

        flask --app hello uwsgi doctor -- --ini hello.ini

    Each line is OK, WARN or FAIL; the exit status is 1 if one is FAIL.
    """
    arguments = (["--ini", ini] if ini else []) + list(uwsgi_options)
    app, broken = _load(info)
    _tell(itertools.chain(broken, doctor.findings(app, arguments)))


def _load(info: ScriptInfo) -> tuple[Flask | None, list[doctor.Finding]]:
    """Load the app if there is one, and say why it can not be."""
    try:
        return info.load_app(), []
    except NoAppException as error:
        if info.app_import_path is None and not any(map(os.path.exists, ("wsgi.py", "app.py"))):
            return None, [doctor.Finding("OK", "no app is named; with flask --app it is looked at")]
        reason = error.format_message()
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}"
    last_line = reason.strip().splitlines()[-1]
    return None, [doctor.Finding("FAIL", f"the app can not be loaded: {last_line}")]


@uwsgi.command("install", short_help="Build a uWSGI with all loop engines.", with_appcontext=False)
@click.option("--yes", is_flag=True, help="Install outside a virtual environment, too.")
@click.option("--allow-no-ssl", is_flag=True, help="Build without OpenSSL where it is missing.")
@click.option("--force", is_flag=True, help="Build even if there is one that has all.")
def install_command(yes: bool, allow_no_ssl: bool, force: bool) -> None:
    """Build one uWSGI with Python, gevent, asyncio and greenlet into this environment."""
    binary = install.binary()
    if not force and install.is_complete(binary):
        click.echo(f"{binary} has all loop engines already; --force builds it again")
        return
    if not yes and not install.in_environment():
        raise click.ClickException(
            f"{sys.prefix} is not a virtual environment: make one, "
            f"'{sys.executable} -m venv .venv', or give --yes to install there"
        )
    missing = install.missing(allow_no_ssl)
    if missing:
        raise click.ClickException("\n  ".join(["uWSGI can not be built yet:", *missing]))
    try:
        install.build(_progress)
    except install.BuildError as error:
        _progress("It has failed")
        raise click.ClickException(str(error)) from None
    _progress(f"Installed {binary}")
    _tell(doctor.program_findings(binary, doctor.Subject()))


def _progress(step: str) -> None:
    """Show a step of the build; one within another on a terminal only, until the next."""
    terminal = sys.stdout.isatty()
    clear = "\r\033[K" if terminal else ""
    if not step.startswith(" "):
        click.echo(clear + step)
    elif terminal:
        click.echo(clear + step[:78], nl=False)


def _tell(findings: Iterable[doctor.Finding]) -> None:
    """Print findings as they come.

    :raises SystemExit: with status 1 if one of them is a failure.
    """
    failed = False
    colours = {"OK": "green", "WARN": "yellow", "FAIL": "red"}
    for finding in findings:
        level = click.style(f"{finding.level:<4}", fg=colours[finding.level])
        click.echo(f"{level}  {finding.text}")
        failed = failed or finding.level == "FAIL"
    if failed:
        sys.exit(1)
