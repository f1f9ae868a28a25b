"""Devices of the registry that report steadily while something else happens: how many of their reports come through, and
how late. Part of `run`."""
import json
import socket
import subprocess
import threading
import time

from world import FIRST_IDENT, Failure, wait_for

COUNT = 10  # devices, each with a connection of its own
EACH = 0.02  # seconds between two reports, of whichever device
REPORT = "MT;6;{};R0;10+190109091803+22.63827+114.02922+2.14+69+2+3744+{}\r\n"


class Known:
    """Reports until the `with` block ends; then sent, came (numbers) and late (seconds, sorted) are known."""

    def __init__(self, world):
        self.world, self.times, self.over = world, {}, False

    def __enter__(self):
        self.devices = [socket.create_connection(("127.0.0.1", self.world.ports["mictrack"])) for _ in range(COUNT)]
        self.output = self.world.folder / f"known-{time.monotonic_ns()}.log"
        self.listener = self.world.spawn(["mosquitto_sub", "-p", self.world.broker_port, "-q", 1, "-F", "%U %p", "-t",
                                          "trackbus/message/gw/devices/+"], self.output.name)
        self.report(0)
        wait_for(lambda: self.report(0) or self.output.read_text().strip(), "a first report")  # it has subscribed
        self.thread = threading.Thread(target=self.go_on)
        self.thread.start()
        return self

    def report(self, number):
        self.devices[number % COUNT].sendall(REPORT.format(FIRST_IDENT + number % COUNT, number).encode())

    def go_on(self):
        number = 0
        while not self.over:
            number += 1
            self.times[number] = time.time()
            self.report(number)
            time.sleep(EACH)

    def arrivals(self):
        """When each report came, by its number."""
        came = {}
        for line in self.output.read_text().splitlines():
            when, _, payload = line.partition(" ")
            message = json.loads(payload)
            if FIRST_IDENT <= int(message["ident"]) < FIRST_IDENT + COUNT and message["message.seqnum"] > 0:
                came.setdefault(message["message.seqnum"], float(when))
        return came

    def all_came(self):
        return len(self.arrivals()) == len(self.times)

    def __exit__(self, kind, *_):
        self.over = True
        self.thread.join()
        try:
            wait_for(self.all_came, "all reports of known devices")
        except Failure:
            if kind is None:
                self.take()
        else:
            self.take()
        self.listener.terminate()
        for device in self.devices:
            device.close()

    def take(self):
        came = self.arrivals()
        self.sent, self.came = len(self.times), len(came)
        self.late = sorted(came[number] - self.times[number] for number in came)

    def percentile(self, percent):
        return self.late[min(len(self.late) - 1, len(self.late) * percent // 100)] * 1e3
