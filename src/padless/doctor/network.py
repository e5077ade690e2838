"""How the ranks would find each other: this machine's name, the interfaces asked for, the launcher's variables."""

import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

from padless.doctor.finding import Finding, mend, ok

_INTERFACES = Path("/sys/class/net")
_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_START_ANEW = "start the ranks with composer or torchrun, or unset these variables to run one process"
_CONNECT_S = 3.0
_INTERFACE = "set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the interface between them"


def look_at_network(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Look where gloo and NCCL would listen: on the interfaces asked for, else at this machine's own name."""
    present = sorted(entry.name for entry in _INTERFACES.iterdir()) if _INTERFACES.is_dir() else []
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        asked = environment.get(variable, "")
        if asked and not _names_an_interface(asked, present):
            yield mend(
                "network", f"{variable}={asked} is not an interface here", f"set it to one of {', '.join(present)}"
            )
    if environment.get("GLOO_SOCKET_IFNAME"):
        yield ok("network", f"GLOO_SOCKET_IFNAME={environment['GLOO_SOCKET_IFNAME']}; interfaces {', '.join(present)}")
        return  # this machine's name is not asked
    several = _several_machines(environment)
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError:
        address = "nowhere"
    text = f"{name} is {address}; interfaces {', '.join(present)}"
    if address != "nowhere" and not address.startswith("127."):
        yield ok("network", text)
    elif several:
        yield mend("network", f"{text}: the other machines cannot reach this one by it", _INTERFACE)
    else:
        yield ok("network", f"{text}: enough for one machine; for several, {_INTERFACE}")


def _several_machines(environment: Mapping[str, str]) -> bool:
    """Whether a launcher has set more ranks than this machine runs."""
    world, local = environment.get("WORLD_SIZE", ""), environment.get("LOCAL_WORLD_SIZE", "")
    return world.isdigit() and local.isdigit() and int(world) > int(local)


def _names_an_interface(asked: str, present: list[str]) -> bool:
    """Whether a list of interfaces in NCCL's syntax names one of those present: prefixes, ``=`` exact, ``^`` not."""
    if asked.startswith("^"):
        return True
    if asked.startswith("="):
        return any(name in present for name in asked[1:].split(","))
    return any(name.startswith(prefix) for prefix in asked.split(",") for name in present)


def look_at_launcher(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Check the launcher's variables, if any is set, and whether the first rank's machine can be reached."""
    found = {name: environment[name] for name in _LAUNCHER if name in environment}
    listed = ", ".join(f"{name}={value}" for name, value in found.items())
    if not found:
        yield ok("launcher", "no variables of a launcher are set: one process, unless composer or torchrun starts more")
        return
    missing = [name for name in _LAUNCHER if name not in found]
    if missing:
        yield mend("launcher", f"{listed}, but {', '.join(missing)} is not set", _START_ANEW)
        return
    wrong = _wrong_number(found)
    if wrong is not None:
        yield mend("launcher", f"{listed}: {wrong}", _START_ANEW)
        return
    yield _master_line(listed, found["MASTER_ADDR"], int(found["MASTER_PORT"]))


def _wrong_number(found: Mapping[str, str]) -> str | None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"):
        if not found[name].isdigit():
            return f"{name} is not a number"
    if int(found["RANK"]) >= int(found["WORLD_SIZE"]):
        return "RANK is not below WORLD_SIZE"
    if not 0 < int(found["MASTER_PORT"]) < 65536:
        return "MASTER_PORT is not a port"
    return None


def _master_line(listed: str, address: str, port: int) -> Finding:
    """Try the first rank's address; that nobody listens there yet is fine, that it does not answer is not."""
    try:
        socket.create_connection((address, port), _CONNECT_S).close()
    except ConnectionRefusedError:
        return ok("launcher", f"{listed}; the first rank's machine answers, nobody listens there yet")
    except socket.gaierror:
        return mend("launcher", f"{listed}: MASTER_ADDR={address} has no address", "use the first node's IP address")
    except OSError as error:
        reason = error.strerror or str(error)
        return mend(
            "launcher",
            f"{listed}: {address}:{port} cannot be reached ({reason})",
            "open the port between the nodes, or set MASTER_ADDR to an address that the other nodes reach",
        )
    return ok("launcher", f"{listed}; somebody listens there already")
