"""Commands without the wait for torch: a process that has imported it forks for every `srat-fast` that a page runs.

The program is the real one (`srat_fast.cli.main`) with the caller's directory, environment and terminal; only the five
seconds of imports are shared. `python served.py SOCKET` serves until its standard input is closed.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import sys

CLIENT = """\
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as link:
    link.connect({path!r})
    request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(link, [len(request).to_bytes(4, "big")], [0, 1, 2])
    link.sendall(request)
    sys.exit(int.from_bytes(link.recv(1), "big"))
"""


def _run(request: list, files: list[int]) -> None:
    """Become the command; never returns."""
    arguments, directory, environment = request
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    from srat_fast.cli import main

    code: object = 1
    try:
        main(arguments)
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def serve(path: str) -> None:
    """Answer requests one at a time.

    Args:
        path: of the socket.
    """
    import sklearn.datasets  # noqa: F401
    import torch._dynamo  # an optimizer imports it
    import torch.utils.tensorboard

    import srat_fast.evaluation.runs
    import srat_fast.training.trainer  # noqa: F401

    torch.set_num_threads(1)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    print("ready", flush=True)
    while (
        sys.stdin not in select.select([listener, sys.stdin], [], [])[0]
    ):  # readable: whoever started this is gone
        link, _ = listener.accept()
        with link:
            size, files, _, _ = socket.recv_fds(link, 4, 3)
            with link.makefile("rb") as stream:
                data = stream.read(int.from_bytes(size, "big"))
            child = os.fork()
            if child == 0:
                listener.close()
                link.close()
                _run(json.loads(data), files)
            for file in files:
                os.close(file)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            link.sendall((code if code >= 0 else 128 - code).to_bytes(1, "big"))


if __name__ == "__main__":
    serve(sys.argv[1])
