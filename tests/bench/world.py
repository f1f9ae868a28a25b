"""What the benchmarks run in: a broker, gateways and load programs of their own; see `run`."""
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import typing
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / "build-bench"
RESULTS = BUILD / "results"
GATEWAY = BUILD / "gateway" / "trackbus"
PROGRAMS = BUILD / "tests" / "bench"

DEVICES = 1000
BATCH = 16  # reports in one write of a device at full speed, so that the devices are not the limit
UNDER_WAY = 4000  # reports between devices and subscriber where that is bounded
WINDOW = 256  # messages under way to the broker, as is the gateway's default
CONNECTIONS = [100, 1000, 5000, 15000]
IDLE_RATE = 5000  # reports a second, where the number of connections varies
FIRST_IDENT = 860000000000000  # of device 0
PATIENCE = 120  # seconds

BROKER_CONFIG = """listener {port} 127.0.0.1
allow_anonymous true
persistence false
log_type none
max_queued_messages 0
max_queued_bytes 0
"""
TUNED = """max_inflight_messages 0
set_tcp_nodelay true
"""


class Failure(Exception):
    """A measurement that cannot be done."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition, what):
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise Failure(f"{what} does not happen")
        time.sleep(0.002)


def can_connect(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def resident(pid, what="VmRSS"):
    """Bytes; with VmHWM the most that it ever was."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1]) * 1024
    raise Failure("a process has ended")


# Event streams of the page that read all that comes, in a process of their own.
WATCH = """
import selectors, socket, sys
port, count = int(sys.argv[1]), int(sys.argv[2])
streams = selectors.DefaultSelector()
for _ in range(count):
    stream = socket.create_connection(("127.0.0.1", port))
    stream.sendall(b"GET /api/events HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\n\\r\\n")
    streams.register(stream, selectors.EVENT_READ)
while True:
    for key, _ in streams.select():
        if not key.fileobj.recv(1 << 16, socket.MSG_TRUNC):
            sys.exit("a stream was closed")
"""


class World:
    """A broker and gateways of its own, gone with the `with` block."""

    def __init__(self, qos=1, gateway=False, sink=False, workers=None, default=False, stock=False, registered=0,
                 guarded=False, watchers=None):
        """default: the gateway publishes what it does without configuration; else one topic and no telemetry. stock:
        the broker is as Debian installs it, but for its queues, which must not drop what is counted. registered: so
        many devices stand in the registry. guarded: with the limit of unknown devices that it has by default. watchers:
        so many event streams of the page, which the gateway then serves; None: it serves none."""
        self.qos, self.has_gateway, self.sink, self.workers = qos, gateway, sink, workers
        self.default, self.stock, self.registered, self.guarded = default, stock, registered, guarded
        self.watchers = watchers
        self.processes = []

    def __enter__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="trackbus-bench-"))
        self.broker_port = free_port()
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self):
        self.start_broker()
        if self.has_gateway:
            self.start_gateway()
        if self.watchers:
            self.start_watchers()

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.kill()
            process.wait()
        shutil.rmtree(self.folder)

    def spawn(self, command, log):
        with open(self.folder / log, "ab") as output:
            process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=output,
                                       stderr=output, cwd=self.folder)
        self.processes.append(process)
        return process

    def start_broker(self):
        self.broker = self.spawn(self.broker_command(), "broker.log")
        wait_for(lambda: can_connect(self.broker_port), "the start of the broker")

    def broker_command(self):
        if self.sink:
            return [PROGRAMS / "trackbus-sink", self.broker_port]
        config = self.folder / "mosquitto.conf"
        config.write_text(BROKER_CONFIG.format(port=self.broker_port) + ("" if self.stock else TUNED))
        mosquitto = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin")
        return [mosquitto, "-c", config]

    def write_config(self):
        self.ports = {"mictrack": free_port(), "magicyo": free_port()}
        channels = [{"id": number, "name": name, "protocol": name, "tcp": f"127.0.0.1:{port}",
                     "udp": f"127.0.0.1:{port}"} for number, (name, port) in enumerate(self.ports.items(), 1)]
        config = {"channels": channels,
                  "mqtt": {"url": f"mqtt://127.0.0.1:{self.broker_port}", "qos": self.qos, "inflight": WINDOW},
                  "store": {"path": str(self.folder / "trackbus.db")},
                  "limits": {"connections": max(CONNECTIONS) + 100, "datagrams_per_second": 1000000}}
        if not self.guarded:
            config["limits"]["unknown_devices"] = 1000000
        if not self.default:
            config |= {"messages": ["channels"], "telemetry": "off"}
        if self.registered:
            config["devices"] = [{"ident": str(number), "id": number, "name": str(number), "type_id": 0}
                                 for number in range(FIRST_IDENT, FIRST_IDENT + self.registered)]
        if self.watchers is not None:
            self.web_port = free_port()
            config["web"] = {"listen": f"127.0.0.1:{self.web_port}", "tiles": None}
        path = self.folder / "trackbus.json"
        path.write_text(json.dumps(config))
        return path

    def start_gateway(self, says=": connected"):
        command = [GATEWAY, "run", "-c", self.write_config()]
        if self.workers:
            command += ["--workers", self.workers]
        self.gateway = self.spawn(command, "gateway.log")
        log = self.folder / "gateway.log"
        wait_for(lambda: log.read_text().count(says) >= (self.workers or 1) or self.gateway.poll() is not None,
                 "the start of the gateway")
        if self.gateway.poll() is not None:
            raise Failure(f"the gateway does not start: {log.read_text()[:500]}")

    def streams(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.web_port}/metrics") as answer:
            return int(re.search(r"^trackbus_web_event_streams (\d+)$", answer.read().decode(), re.M).group(1))

    def start_watchers(self):
        watch = self.spawn([sys.executable, "-c", WATCH, self.web_port, self.watchers], "watchers.log")
        wait_for(lambda: watch.poll() is None and self.streams() == self.watchers, "that all watch")

    def load_command(self, options):
        if not self.has_gateway:
            command = [PROGRAMS / "trackbus-bare", "--window", WINDOW]
        else:
            protocol = options.get("protocol", "mictrack")
            command = [PROGRAMS / "trackbus-load", "--port", self.ports[protocol], "--watch", self.gateway.pid]
        command += ["--broker", self.broker_port, "--qos", self.qos, "--watch", self.broker.pid]
        for name, value in options.items():
            if value is not False and (self.has_gateway or name != "batch"):
                command += ["--" + name.replace("_", "-")] + ([] if value is True else [value])
        return [str(word) for word in command]

    def load(self, **options):
        """Runs devices, or the bare publisher when there is no gateway; what they measured."""
        return run_load(self.load_command(options))

    def watched_load(self, on_line, **options):
        """The same; on_line hears ten times a second how it goes."""
        command = self.load_command({"lines": 10, **options})
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
            for line in run.stderr:
                found = LINE.match(line)
                if found:
                    phase, *numbers = found.groups()
                    on_line(Line(time.monotonic(), phase, *map(int, numbers)))
            if run.wait() not in (0, 1):
                raise Failure(line)
            return json.loads(run.stdout.read() or "{}")


class Line(typing.NamedTuple):
    """How it goes; due are reports that the rate asks for and that are not sent yet."""
    time: float
    phase: str
    connected: int
    due: int
    sent: int
    received: int

    @property
    def waiting(self):
        return self.due + self.sent - self.received


LINE = re.compile(r"(\S.*?) +(\d+) connected +(-?\d+) due +(\d+) sent +(\d+) received")


def run_load(command):
    run = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if run.returncode != 0:
        progress(f"{' '.join(run.args)}\n{run.stderr[-2000:]}")
        raise Failure((run.stderr.splitlines() or ["no reason"])[-1])
    return json.loads(run.stdout)


def in_turns(rounds, **measurements):
    """Calls each in turn, in every second round from last to first; the results of each, by name."""
    results = {name: [] for name in measurements}
    for number in range(rounds):
        order = list(measurements.items())
        for name, measure in order if number % 2 == 0 else reversed(order):
            results[name].append(measure())
            progress(f"{name} {number + 1} of {rounds}")
    return results


def median(results, key):
    return statistics.median(key(result) for result in results)


def rate_of(result):
    return result["rate"]


def progress(text):
    print(f"  {text}", file=sys.stderr, flush=True)
