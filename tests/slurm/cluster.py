"""A SLURM cluster of two nodes on this machine, for as long as it is needed.

    python tests/slurm/cluster.py                    until Ctrl-C
    python tests/slurm/cluster.py -- sinfo           for one command

It needs root, and the programs of Debian's `slurm-wlm` and `munge`, but no systemd and
no control groups. All that it writes is in a temporary folder; its daemons listen on
127.0.0.1 alone, and each node claims more processors than there are.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
NODES = ("node1", "node2")
CPUS = 4
START_S = 60
# A requeued job waits for the old credentials to expire: 120 s, or cred_expire, of
# which 5 is the least.
CONFIG = """
ClusterName=tests
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
EnforcePartLimits=ALL
ReturnToService=2
MinJobAge=300
KillWait=20
"""
NODE = "NodeName={name} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=64000\n"
PARTITIONS = """
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=2
"""


def missing() -> str:
    """Why there can be no cluster here; "" where there can."""
    if os.geteuid() != 0:
        return "a SLURM cluster of one's own needs root"
    lacks = [name for name in PROGRAMS if not shutil.which(name)]
    return f"there is no {', '.join(lacks)}: apt-get install slurm-wlm" if lacks else ""


@contextlib.contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """Gives the environment in which SLURM's commands mean the cluster."""
    # Short, whatever TMPDIR is: a socket's path has 107 characters at most.
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    running: list[subprocess.Popen[bytes]] = []
    environment = dict(os.environ) | {"SLURM_CONF": str(folder / "slurm.conf")}
    try:
        _configure(folder)
        for name, command in _daemons(folder):
            running.append(_start(name, command, folder, environment))
            if name == "munged":
                _wait_for(folder, running, (folder / "munge.socket").exists)
        _wait_for(folder, running, lambda: _are_idle(environment))
        yield environment
    finally:
        _end_jobs(environment)
        for process in reversed(running):
            process.terminate()
        for process in reversed(running):
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        _kill_orphans(environment["SLURM_CONF"])
        shutil.rmtree(folder, ignore_errors=True)


def _configure(folder: Path) -> None:
    """Writes the files that the daemons read."""
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    folder.chmod(0o755)  # munge wants others to reach its socket
    ports = _free_ports(1 + len(NODES))
    text = CONFIG.format(folder=folder, port=ports[0])
    for name, port in zip(NODES, ports[1:], strict=True):
        text += NODE.format(name=name, port=port, cpus=CPUS)
        (folder / f"spool-{name}").mkdir()
    (folder / "slurm.conf").write_text(text + PARTITIONS)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _daemons(folder: Path) -> list[tuple[str, list[str]]]:
    own = {"key-file": "key", "socket": "socket", "pid-file": "pid"}
    own |= {"log-file": "log", "seed-file": "seed"}
    munged = ["munged", "--foreground", "--force", "--num-threads=2"]
    munged += [f"--{option}={folder}/munge.{name}" for option, name in own.items()]
    # NodeHostname is each node's own name, so that any slurmd may be told with -N
    # which one it is, whether or not it was built for several on a machine.
    return [
        ("munged", munged),
        ("slurmctld", ["slurmctld", "-D", "-c"]),
        *((f"slurmd-{name}", ["slurmd", "-D", "-N", name]) for name in NODES),
    ]


def _start(
    name: str, command: list[str], folder: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    with (folder / f"{name}.out").open("wb") as output:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,  # Ctrl-C is for us, who end it
        )


def _wait_for(folder, running, is_so) -> None:
    until = time.monotonic() + START_S
    while not is_so():
        died = [process.args[0] for process in running if process.poll() is not None]
        if died or time.monotonic() > until:
            said = [path.read_text(errors="replace") for path in folder.glob("*.out")]
            said += [path.read_text(errors="replace") for path in folder.glob("*.log")]
            told = f"{' and '.join(died)} ended" if died else "it is not idle"
            raise RuntimeError(f"no SLURM cluster: {told}:\n" + "\n".join(said))
        time.sleep(0.1)


def _are_idle(environment: Mapping[str, str]) -> bool:
    command = ["sinfo", "-h", "-N", "-p", "main", "-o", "%t"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return done.stdout.split() == ["idle"] * len(NODES)


def _end_jobs(environment: Mapping[str, str]) -> None:
    """Cancels what is left, and waits for it to be gone: nothing outlives us."""
    ask = ["squeue", "-h"]
    with contextlib.suppress(subprocess.SubprocessError, OSError):
        user = f"--user={os.geteuid()}"
        options = {"env": environment, "capture_output": True, "timeout": 10}
        subprocess.run(["scancel", user, "--signal=KILL", "--full"], **options)
        subprocess.run(["scancel", user], **options)
        until = time.monotonic() + 30
        while subprocess.run(ask, **options).stdout and time.monotonic() < until:
            time.sleep(0.2)


def _kill_orphans(config: str) -> None:
    """Kills what was started within the cluster and its daemons did not end."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        number = int(path.parent.name)
        with contextlib.suppress(OSError):  # it ends just now
            belongs = f"SLURM_CONF={config}\0".encode() in path.read_bytes()
            if belongs and number != os.getpid():
                os.kill(number, signal.SIGKILL)


def main(arguments: list[str]) -> int:
    """The command line; returns the status of the command that was given, if any."""
    if told := missing():
        print(told, file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    with cluster() as environment:
        if arguments[:1] == ["--"]:
            return subprocess.run(arguments[1:], env=environment).returncode
        print(f"export SLURM_CONF={environment['SLURM_CONF']}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
