"""One worker of a supervised server. The supervisor starts it, not a person.

Its one argument is the JSON text that `to_argument` writes. It prints one line when it is ready, and drains
when its standard input ends, so that it does not outlive its supervisor.
"""

from __future__ import annotations

import json
import select
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from datasentinel.errors import DataSentinelError
from datasentinel.serving.board import Board
from datasentinel.serving.server import run_worker
from datasentinel.settings import Settings

if TYPE_CHECKING:
    from datasentinel.serving.transports import Address

READY = b"ready\n"


def to_argument(settings: Settings, folder: Path, worker: int) -> str:
    """Write what a worker has to know."""
    return json.dumps({"settings": asdict(settings), "folder": str(folder), "worker": worker})


def _print_ready(addresses: dict[str, Address]) -> None:  # noqa: ARG001
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()


def main() -> None:
    """Serve until told to stop; exit with code 1 where that cannot be."""
    told = json.loads(sys.argv[1])
    settings = Settings(**told["settings"])
    number: int = told["worker"]
    board = Board(Path(told["folder"]), number)
    lifeline = sys.stdin.fileno()
    try:
        run_worker(settings, _print_ready, number, board, lifeline)
        if select.select([lifeline], [], [], 0)[0]:
            board.clear()  # The supervisor, who would, is gone.
    except DataSentinelError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
