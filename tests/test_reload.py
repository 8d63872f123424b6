"""A reload under many clients that come back; "make reload" does it on every mode, three times."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from pathlib import Path

from endings import serve
from returning import Crowd
from uwsgi_server import uwsgi_command


def test_all_of_a_crowd_get_1012_and_come_back_and_no_message_is_lost() -> None:
    count = 300

    async def reload() -> None:
        with serve("asyncio-engine", "--listen", "100") as server:
            async with Crowd(f"{server.ws}/count", count) as crowd:
                await crowd.back(1, 60)
                os.kill(server.worker, signal.SIGHUP)
                assert await crowd.closed(1) == {1012: count}
                await crowd.back(2, 60)
                assert all(member.echoing for member in crowd.members)
                assert crowd.faults() == []
            told = re.findall(r"word: taken \d+-0 (\d+) (\d+)", server.log)
            assert len(told) == count
            # What a handler took it answered before the close.
            assert [pair for pair in told if pair[0] != pair[1]] == []

    asyncio.run(reload())


def test_ctrl_c_while_the_app_is_loaded_ends_uwsgi(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\nfrom flask import Flask\nfrom flask_uwsgi_ws import WebSocket\n"
        "app = Flask('slow')\nWebSocket(app)\nprint('loading', flush=True)\n"
        # In steps: a signal right before a sleep does not end that one.
        "for _ in range(600):\n    time.sleep(0.1)\n"
    )
    command, environment = uwsgi_command("uwsgi")
    command += ["--http-socket", "127.0.0.1:0", "--master", "--need-app", "--module", "slow:app"]
    with subprocess.Popen(
        [*command, "--pythonpath", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
    ) as process:
        assert process.stdout is not None
        try:
            assert any(b"loading" in line for line in process.stdout)
            process.send_signal(signal.SIGINT)
            assert process.wait(30) != 0
        finally:
            process.kill()
