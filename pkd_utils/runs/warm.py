"""One process imports the large libraries once and becomes, forked, each notebook's kernel.

Importing torch, timm, transformers and the rest costs a kernel seconds of processor time, and a profile has dozens of
kernels. `warm.py serve SOCKET FILE` imports what is not ours and forks for whoever asks. `warm.py ask SOCKET ...` asks,
hands over its files, folder, environment and arguments, and stands for the kernel: it ends as the kernel ends, and if
it is killed, so is the kernel. Nothing of `pkd_utils` is imported before the fork, nothing computed and nothing drawn,
so a forked kernel computes what a fresh one does. Where there is no server the asker becomes a fresh kernel itself.
Linux only: elsewhere processes that hold such libraries are not safe to fork.
"""

import builtins
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import warnings
from types import SimpleNamespace

SOCKET = "PKD_WARM"  # the socket's path, in the environment of those who may ask
LIBRARIES = (
    "ipykernel.kernelapp ipykernel.ipkernel pandas pyarrow.parquet scipy.stats sklearn.ensemble sklearn.linear_model "
    "sklearn.model_selection matplotlib.figure matplotlib.backends.backend_agg torch._dynamo torchvision timm "
    "safetensors.torch transformers.models.auto.modeling_auto transformers.models.auto.tokenization_auto "
    "transformers.models.bert.modeling_bert pydantic PIL.Image tqdm"
)


def start(environment: dict[str, str]) -> subprocess.Popen:
    """Start a server that ends when its standard input does, and let what this process starts ask it.

    `environment` holds the variables that are read when Python or a library starts: every asker has the same.
    """
    # In a folder that only this user may enter.
    os.environ[SOCKET] = os.path.join(tempfile.mkdtemp(prefix="pkd-warm-"), "socket")
    with socket.socket(socket.AF_UNIX) as listening:  # here, so that nobody asks before there is who hears
        listening.bind(os.environ[SOCKET])
        listening.listen(64)
        command = [sys.executable, __file__, "serve", os.environ[SOCKET], str(listening.fileno())]
        how = {"stdin": subprocess.PIPE, "pass_fds": [listening.fileno()], "start_new_session": True}
        return subprocess.Popen(command, env={**os.environ, **environment}, **how)


def serve(place: str, listening: socket.socket) -> list[str] | None:
    """Fork for everyone who asks, until standard input ends; in a fork, the arguments of its kernel."""
    # pandas asks, when it is imported, whether tables will be shown in a notebook.
    builtins.get_ipython = lambda: SimpleNamespace(kernel=None)
    with warnings.catch_warnings():  # tqdm looks for widgets, which the books have no use for
        warnings.filterwarnings("ignore", message="IProgress not found")
        for name in LIBRARIES.split():
            importlib.import_module(name)
    del builtins.get_ipython
    gc.freeze()  # or each fork would copy what it never uses when it collects its garbage and when it ends
    events = selectors.DefaultSelector()
    events.register(listening, selectors.EVENT_READ)
    events.register(sys.stdin, selectors.EVENT_READ)
    kernels: dict[int, tuple[socket.socket, int]] = {}  # process -> who asked for it, what tells of its end
    while True:
        for key, _ in events.select():
            if key.fileobj is sys.stdin:
                for process in kernels:
                    os.kill(process, signal.SIGKILL)
                os.unlink(place)
                os.rmdir(os.path.dirname(place))
                return None
            if key.fileobj is listening:
                asker, _ = listening.accept()
                asked, files = _question(asker)
                process = os.fork()
                if not process:
                    for mine in (events, listening, asker, *(one for one, _ in kernels.values())):
                        mine.close()
                    return _become_kernel(asked, files)
                kernels[process] = asker, os.pidfd_open(process)
                for file in kernels[process]:
                    events.register(file, selectors.EVENT_READ, process)
                for file in files:
                    os.close(file)
            elif key.data in kernels:
                asker, end = kernels.pop(key.data)
                if key.fileobj is asker:  # it says nothing after its question: it is gone
                    os.kill(key.data, signal.SIGKILL)
                for file in (asker, end):
                    events.unregister(file)
                code = os.waitstatus_to_exitcode(os.waitpid(key.data, 0)[1])
                if key.fileobj is not asker:
                    asker.sendall(struct.pack("i", code))
                asker.close()
                os.close(end)


def _question(asker: socket.socket) -> tuple[dict, list[int]]:
    """What was asked, and the asker's standard files."""
    head, files, _, _ = socket.recv_fds(asker, 4, 3)
    text = b""
    while len(text) < struct.unpack("I", head)[0]:
        text += asker.recv(1 << 16)
    return json.loads(text), files


def _become_kernel(asked: dict, files: list[int]) -> list[str]:
    """Take over the files, folder and environment of who asked; returns the arguments."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.setsid()
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    # As a kernel would tell it by the environment, before it is imported.
    inline = "module://matplotlib_inline.backend_inline"
    importlib.import_module("matplotlib").rcParams["backend"] = os.environ.get("MPLBACKEND", inline)
    # The kernel ends when the process that forked it does.
    return [*asked["arguments"], f"--IPKernelApp.parent_handle={os.getppid()}"]


def ask(place: str, arguments: list[str]) -> None:
    """Have a kernel forked and end as it ends; without a server become one."""
    server = socket.socket(socket.AF_UNIX)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Jupyter interrupts a kernel before it asks it to end
    try:
        server.connect(place)
    except OSError:
        os.execv(sys.executable, [sys.executable, "-m", "ipykernel_launcher", *arguments])
    text = json.dumps({"folder": os.getcwd(), "environment": dict(os.environ), "arguments": arguments}).encode()
    socket.send_fds(server, [struct.pack("I", len(text))], [0, 1, 2])
    server.sendall(text)
    answer = server.recv(4)
    code = struct.unpack("i", answer)[0] if answer else 1
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    sys.path[0] = ""  # what lies beside this file are no top-level modules
    if sys.argv[1] == "ask":
        ask(sys.argv[2], sys.argv[3:])
    elif (kernel := serve(sys.argv[2], socket.socket(fileno=int(sys.argv[3])))) is not None:
        import runpy

        sys.argv = ["ipykernel_launcher", *kernel]
        runpy.run_module("ipykernel_launcher", run_name="__main__", alter_sys=True)
