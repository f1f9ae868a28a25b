"""Measurements of what happens after an outage: bursts, a backlog on disk, load that goes on meanwhile; and of many
known devices. Part of the class Bench in `run`."""
import json
import resource
import signal
import socket
import sqlite3
import statistics
import subprocess
import time

from world import (DEVICES, FIRST_IDENT, PATIENCE, UNDER_WAY, Failure, World, in_turns, median, rate_of, resident)

FIRST_NUMBER = 10000  # message.seqnum of a device's first report
BUFFERED = 50  # reports that a device has kept, in a burst
BACKLOG_RATE = 2000  # new reports a second while a backlog drains


def telemetry_of(world, field, count):
    """The retained values of a field, of as many devices as there are, at most count."""
    command = ["mosquitto_sub", "-p", world.broker_port, "-C", count, "-W", 10, "-F", "%p", "-t",
               f"trackbus/state/gw/devices/+/telemetry/{field}"]
    run = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return run.stdout.split()


def wait_for_telemetry(world, field, count, value):
    """Until all devices have that value, or no other has come to have it for a while; returns how many have it."""
    there, end = -1, 0
    while there != count and (there == -1 or time.monotonic() < end):
        before, there = there, telemetry_of(world, field, count).count(str(value))
        if there > before:
            end = time.monotonic() + PATIENCE / 4
    return there


def report_of(number):
    """A Mictrack position of device number."""
    return (f"MT;6;{FIRST_IDENT + number};R0;10+190109091803+22.63827+114.02922+2.14+69+2+3744+{FIRST_NUMBER}\r\n"
            .encode())


def message_of(number, device):
    return json.dumps({"battery.voltage": 3.744, "channel.id": 1, "device.id": FIRST_IDENT + device,
                       "device.name": str(FIRST_IDENT + device), "device.type.id": 0, "gsm.signal.level": 69,
                       "ident": str(FIRST_IDENT + device), "message.seqnum": FIRST_NUMBER + number % 50000,
                       "message.type": "R0", "peer": "127.0.1.1:40000", "position.direction": 69,
                       "position.latitude": 22.63827, "position.longitude": 114.02922, "position.satellites": 10,
                       "position.speed": 2.14, "position.valid": True, "protocol.id": 1,
                       "server.timestamp": 1700000000.123456, "timestamp": 1547025483}, separators=(",", ":"))


def make_backlog(path, count, devices):
    """A store with so many messages that wait, as a gateway leaves it (see broker/store.c)."""
    with sqlite3.connect(path) as database:
        database.executescript("""
            PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;
            CREATE TABLE commands(id INTEGER PRIMARY KEY, entry TEXT NOT NULL);
            CREATE TABLE messages(number INTEGER PRIMARY KEY, topic TEXT NOT NULL, payload BLOB,
                                  qos INTEGER NOT NULL, retain INTEGER NOT NULL, correlation BLOB);
            CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT NOT NULL);
            INSERT INTO meta VALUES('marker', lower(hex(randomblob(16)))); PRAGMA user_version=1;""")
        rows = ((number, f"trackbus/message/gw/channels/1/{FIRST_IDENT + number % devices}",
                 message_of(number, number % devices).encode(), 1, 0, None) for number in range(1, count + 1))
        database.executemany("INSERT INTO messages VALUES(?,?,?,?,?,?)", rows)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


class WorldWithBacklog(World):
    """The gateway begins with messages on its disk, and finds its broker only once it listens."""

    def __init__(self, count, devices, **options):
        super().__init__(gateway=True, **options)
        self.backlog, self.devices = count, devices

    def start(self):
        make_backlog(self.folder / "trackbus.db", self.backlog, self.devices)
        self.start_gateway(says="retrying")
        self.start_broker()


class Outage:
    """Freezes the broker for a while, once the load is being measured, and notes how what waits goes down."""

    def __init__(self, world, begin, duration):
        self.world, self.begin, self.duration = world, begin, duration
        self.measuring = self.stopped = self.over = None
        self.lines = []

    def __call__(self, line):
        if line.phase != "measuring":
            return
        self.measuring = self.measuring or line.time
        if self.stopped is None and line.time - self.measuring > self.begin:
            self.world.broker.send_signal(signal.SIGSTOP)
            self.stopped = line.time
        if self.stopped and self.over is None and line.time - self.stopped > self.duration:
            self.world.broker.send_signal(signal.SIGCONT)
            self.over = line.time
        if self.over and line.time - self.over > 0.5:
            self.lines.append(line)

    def result(self, rate):
        """How fast what waits goes down, in reports a second, until a tenth of it is left."""
        if len(self.lines) < 3:
            raise Failure("the outage took longer than the load")
        first = self.lines[0]
        few = max(first.waiting / 10, rate / 10)
        last = next((line for line in self.lines[1:] if line.waiting < few), self.lines[-1])
        seconds = last.time - first.time
        return {"waiting": first.waiting, "left": last.waiting, "seconds": seconds,
                "falls": (first.waiting - last.waiting) / seconds,
                "delivered": (last.received - first.received) / seconds,
                "lines": [(line.time - first.time, line.waiting, line.received) for line in self.lines]}


class Storms:
    def outage_once(self, rate, default):
        frozen, after = (3, 10) if self.quick else (8, 30)
        with World(gateway=True, default=default) as world:
            outage = Outage(world, 1, frozen)
            world.watched_load(outage, devices=DEVICES, rate=rate, warmup=3,
                               seconds=1 + frozen + after)
            return outage.result(rate)

    def measure_outage(self):
        """The broker stands still while devices go on at 0.6 of full speed. Waiting is what the devices have to say
        and the subscriber has not seen, wherever it is."""
        for default, text in [(True, "default configuration"), (False, "one topic, no telemetry")]:
            full = median([self.run_once(default=default, batch=1, under_way=UNDER_WAY)
                           for _ in range(min(self.rounds, 3))], rate_of)
            rate = int(0.6 * full)
            runs = [self.outage_once(rate, default) for _ in range(min(self.rounds, 3))]
            self.data["outage_" + ("default" if default else "lean")] = {"full": full, "runs": runs}
            falls = median(runs, lambda run: run["falls"])
            waiting = median(runs, lambda run: run["waiting"])
            self.row(f"after an outage, {rate:,}/s going on, {text}: {waiting:,.0f} waiting go down by",
                     f"{falls:,.0f}/s", f"{falls / full:.2f}", "≥ 0.33 of full speed", falls / full >= 0.33)

    def drain_once(self, count):
        with WorldWithBacklog(count, DEVICES) as world:
            lines = []
            seconds = (8 if self.quick else 10) + count / 25000
            result = world.watched_load(lines.append, devices=DEVICES, rate=BACKLOG_RATE, seconds=seconds)
        if result.get("received") != count + result.get("sent", 0):
            raise Failure(f"not all came: {count} waited, {result.get('sent')} were sent, "
                          f"{result.get('received')} received")
        begun = next(line for line in lines if line.received > 0)
        done = next((line for line in lines if line.received >= count), lines[-1])
        held = max(line.due for line in lines if line.time <= done.time)
        return {"rate": (done.received - begun.received) / (done.time - begun.time), "held": held}

    def measure_drain(self):
        """A backlog on disk, while new reports come."""
        count = 100000 if self.quick else 1000000
        runs = in_turns(min(self.rounds, 3), full=lambda: self.run_once(under_way=UNDER_WAY),
                        drain=lambda: self.drain_once(count))
        self.data["drain"] = runs
        rate, full = median(runs["drain"], rate_of), median(runs["full"], rate_of)
        self.row(f"draining {count:,} messages from the disk, {BACKLOG_RATE:,}/s new ones", f"{rate:,.0f}/s",
                 f"{rate / full:.2f}", "≥ 0.70 of full speed", rate / full >= 0.7)
        held = median(runs["drain"], lambda run: run["held"])
        self.row("new reports that devices had to keep meanwhile, at most", f"{held:,.0f}", "",
                 "≤ a second's", held <= BACKLOG_RATE)

    def burst_once(self, devices):
        with World(gateway=True, default=True, registered=devices) as world:
            result = world.load(devices=devices, buffered=BUFFERED, ramp=devices // 2, seconds=0)
            expected = devices * (BUFFERED + 1)
            if result["received"] != expected:
                raise Failure(f"{expected:,} reports were sent, {result['received']:,} came")
            return {"rate": result["received"] / result["ready_seconds"], "peak": resident(world.gateway.pid, "VmHWM"),
                    "newest": wait_for_telemetry(world, "message.seqnum", devices, FIRST_NUMBER + BUFFERED)}

    def measure_burst(self):
        """All devices come back within 2 s, each with what it has kept. One process has so many open files as the
        system allows: a connection is one here and one in the gateway."""
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        devices = 2000 if self.quick else min(10000, files - 1000)
        runs = in_turns(min(self.rounds, 3), full=lambda: self.run_once(default=True, under_way=UNDER_WAY),
                        burst=lambda: self.burst_once(devices))
        self.data["burst"] = runs
        rate, full = median(runs["burst"], rate_of), median(runs["full"], rate_of)
        self.row(f"{devices:,} devices within 2 s, {BUFFERED} kept reports each (of {files:,} open files)",
                 f"{rate:,.0f} reports/s", f"{rate / full:.2f}", "≥ 0.70 of full speed", rate / full >= 0.7)
        newest = min(run["newest"] for run in runs["burst"])
        self.row("devices whose telemetry shows the newest report then", f"{newest:,}", "", f"{devices:,}",
                 newest == devices)
        peak = median(runs["burst"], lambda run: run["peak"]) / 1048576
        self.row("resident memory at its peak", f"{peak:.0f} MiB", "", "≤ 256 MiB", peak <= 256)

    def memory_of_known(self, devices, registered):
        """Resident bytes of a gateway that has heard so many devices, over some connections."""
        with World(gateway=True, default=True, registered=registered) as world:
            time.sleep(1)
            before = resident(world.gateway.pid)
            sockets = [socket.create_connection(("127.0.0.1", world.ports["mictrack"])) for _ in range(20)]
            for begin in range(0, devices, 100):
                sockets[begin // 100 % len(sockets)].sendall(
                    b"".join(report_of(number) for number in range(begin, min(begin + 100, devices))))
            there = wait_for_telemetry(world, "message.seqnum", devices, FIRST_NUMBER)
            if there != devices:
                raise Failure(f"{there:,} of {devices:,} devices have telemetry")
            time.sleep(2)
            return {"before": before, "after": resident(world.gateway.pid)}

    def measure_known(self):
        devices = 10000 if self.quick else 100000
        with World(gateway=True, default=True) as world:
            time.sleep(1)
            rest = resident(world.gateway.pid)
        runs = [self.memory_of_known(devices, devices) for _ in range(1)]
        self.data["known"] = {"rest": rest, "runs": runs}
        registry = statistics.median((run["before"] - rest) / devices for run in runs)
        telemetry = statistics.median((run["after"] - run["before"]) / devices for run in runs)
        self.row(f"memory of a device in the registry, {devices:,} of them", f"{registry:,.0f} bytes")
        self.row("and of its telemetry once it was heard", f"{telemetry:,.0f} bytes", "", "≤ 2,048 bytes",
                 telemetry <= 2048)
