"""`percale-cni`, which the container runtime runs for every pod: it hands the request to the agent and prints the answer.

A bare Python takes most of the time that a pod may take here, so this file imports built-in modules only; what `install.py`
writes into the runtime's plugin directory calls `main` with the agent's socket.

    request  4 bytes length of the variables, 4 bytes length of the configuration (big-endian),
             the CNI_ variables as NAME=value, each ended by a zero byte, then the bytes of standard input;
             with the first byte the namespace behind CNI_NETNS as an open descriptor (SCM_RIGHTS), where there is one
    answer   4 bytes length, 1 byte exit code, then what to print

The agent's end is `server.py`. A request without an answer is sent again: every operation is idempotent.
"""

import _socket
import posix
import sys
import time

SOCKET = "/run/percale/cni.sock"
PATIENCE = 5.0
"""Seconds to wait for an agent that does not answer, e.g. while it restarts."""
ANSWER_TIMEOUT = 60.0
VERSIONS = b'{"cniVersion":"1.1.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}\n'
BAD_ENVIRONMENT = 4
BROKEN_INPUT = 5
TRY_AGAIN = 11
NOT_AVAILABLE = 50


def main(socket: str = SOCKET) -> None:
    """The entry point: environment and standard input in, standard output and exit code out."""
    command = posix.environ.get(b"CNI_COMMAND", b"")
    if command == b"VERSION":
        code, output = 0, VERSIONS
    elif command not in (b"ADD", b"DEL", b"CHECK", b"STATUS", b"GC"):
        code, output = error(BAD_ENVIRONMENT, "CNI_COMMAND must be ADD, DEL, CHECK, GC, STATUS or VERSION", "")
    else:
        code, output = forward(command, posix.environ.get(b"PERCALE_CNI_SOCKET", socket.encode()))
    while output:
        output = output[posix.write(1, output) :]
    posix._exit(code)


def forward(command: bytes, path: bytes) -> tuple[int, bytes]:
    """Ask the agent until it answers or the time is up; the exit code and what to print."""
    try:
        configuration = read_all()
    except OSError as problem:
        return error(BROKEN_INPUT, f"cannot read the configuration from standard input: {problem.strerror}", "")
    variables = b"".join(
        name + b"=" + value + b"\0" for name, value in posix.environ.items() if name.startswith(b"CNI_")
    )
    sizes = len(variables).to_bytes(4, "big") + len(configuration).to_bytes(4, "big")
    request = sizes + variables + configuration
    namespace = open_namespace()
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return ask(path, request, namespace)
        except OSError as problem:
            if command == b"STATUS" or time.monotonic() > end:
                return error(
                    NOT_AVAILABLE if command == b"STATUS" else TRY_AGAIN,
                    "the percale agent does not answer on this node",
                    f"{path.decode(errors='replace')}: {problem.strerror or problem}; see the log of the percale agent",
                )
        time.sleep(0.05)


def ask(path: bytes, request: bytes, namespace: int | None) -> tuple[int, bytes]:
    """One request, one answer. Raises OSError when either does not get through."""
    agent = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        agent.settimeout(ANSWER_TIMEOUT)
        agent.connect(path)
        send(agent, request, namespace)
        head = receive(agent, 5)
        return head[4], receive(agent, int.from_bytes(head[:4], "big"))
    finally:
        agent.close()


def send(agent: _socket.socket, request: bytes, namespace: int | None) -> None:
    """All of it, the descriptor with the first byte. Raises OSError."""
    rights = []
    if namespace is not None:
        rights.append((_socket.SOL_SOCKET, _socket.SCM_RIGHTS, namespace.to_bytes(4, sys.byteorder)))
    sent = agent.sendmsg([request], rights)
    try:  # noqa: SIM105 -- contextlib takes long to import
        agent.sendall(request[sent:])
    except BrokenPipeError:
        pass  # an agent that refuses a request does not read all of it: its answer says why


def receive(agent: _socket.socket, size: int) -> bytes:
    """Exactly so many bytes. Raises OSError when the agent ends before them."""
    data = b""
    while len(data) < size:
        part = agent.recv(size - len(data))
        if not part:
            raise ConnectionResetError(104, "the agent went away")
        data += part
    return data


def open_namespace() -> int | None:
    """The pod's namespace; None when there is none (any more): the agent decides what that means."""
    try:
        return posix.open(posix.environ.get(b"CNI_NETNS", b""), posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return None


def read_all() -> bytes:
    """All of standard input."""
    data = b""
    while part := posix.read(0, 65536):
        data += part
    return data


def error(code: int, message: str, details: str) -> tuple[int, bytes]:
    """A CNI error object. Its texts come from here and the system, so quotes are all there is to escape."""
    texts = [text.replace("\\", "\\\\").replace('"', '\\"') for text in (message, details)]
    return 1, b'{"cniVersion":"1.1.0","code":%d,"msg":"%b","details":"%b"}\n' % (
        code,
        texts[0].encode(),
        texts[1].encode(),
    )


if __name__ == "__main__":
    main()
