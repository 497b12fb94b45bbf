"""One worker of a supervised server. The supervisor starts it, not a person.

Its one argument is the JSON text that `to_argument` writes. It prints one line when it is ready and another
every second as long as its event loop turns, and drains when its standard input ends, so that it does not
outlive its supervisor.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import sys
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from datasentinel.errors import DataSentinelError
from datasentinel.serving.board import Board
from datasentinel.serving.logs import configure_logging
from datasentinel.serving.process import serve
from datasentinel.serving.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

READY = b"ready\n"
_ALIVE = b"alive\n"
HEARTBEAT_S = 1.0


def to_argument(settings: Settings, folder: Path, worker: int) -> str:
    """Write what a worker has to know."""
    return json.dumps({"settings": asdict(settings), "folder": str(folder), "worker": worker})


def _print_ready(addresses: Mapping[str, object]) -> None:  # noqa: ARG001
    stdout = sys.stdout.fileno()
    os.set_blocking(stdout, False)  # A supervisor that does not read must not stop its workers.
    os.write(stdout, READY)
    _beat(asyncio.get_running_loop(), stdout)


def _beat(loop: asyncio.AbstractEventLoop, stdout: int) -> None:
    with suppress(OSError):  # A supervisor that is gone shows at the other pipe.
        os.write(stdout, _ALIVE)
    loop.call_later(HEARTBEAT_S, _beat, loop, stdout)


def main() -> None:
    """Serve until a signal ends it; exit with code 1 where serving is impossible."""
    told = json.loads(sys.argv[1])
    settings = Settings(**told["settings"])
    number: int = told["worker"]
    if number:  # pyarrow's server cannot share its port.
        settings = replace(settings, flight_port=-1)
    board = Board(Path(told["folder"]), number)
    lifeline = sys.stdin.fileno()
    try:
        configure_logging(settings, worker=number)
        serve(settings, _print_ready, board=board, lifeline=lifeline)
        if select.select([lifeline], [], [], 0)[0]:
            board.clear()  # The supervisor, which would, is gone.
    except DataSentinelError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
