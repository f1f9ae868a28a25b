"""What the flow of tests/recipes/brokers is played with: processes, clients of the broker, a gate between broker and
gateway, the gateway, trackers."""
import json
import os
import signal
import socket
import subprocess
import threading
import time

HOST = "127.0.0.1"
PATIENCE = 30  # seconds
KEY = "of the gateways of this recipe"
FORBIDDEN = "866425031300099"  # a tracker whose messages some brokers are told to refuse
LARGEST = 1500  # bytes of a message; the others are told to refuse what is larger


class Failure(Exception):
    """Something was not right."""


class NoBroker(Failure):
    """The broker does not start, so that nothing can be said of the gateway."""


def wait_for(what, condition, seconds=PATIENCE):
    """Waits until condition() is true and returns what it returned. what says what is then missing; it may be a function."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise Failure(f"{what() if callable(what) else what} (waited {seconds} s)")
        time.sleep(0.05)


def free_port():
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def listens(port):
    try:
        socket.create_connection((HOST, port), 1).close()
        return True
    except OSError:
        return False


class Processes:
    """Each in a process group of its own, so that its children end with it."""

    def __init__(self):
        self.running = []

    def start(self, log, command, cwd, env=None):
        with open(log, "ab") as output:
            process = subprocess.Popen(
                [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                cwd=cwd, env={**os.environ, **(env or {})}, start_new_session=True,
            )
        self.running.append(process)
        return process

    def kill(self, process):
        """SIGKILL for it and all its children."""
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        if process in self.running:
            self.running.remove(process)

    def kill_all(self):
        for process in reversed(list(self.running)):
            self.kill(process)


class Gate:
    """Passes on what the gateway and the broker say to each other. While it is closed nobody gets through, so that who
    watches can be back at a broker before the gateway is."""

    def __init__(self, target):
        self.port, self.target = free_port(), target
        self.listener, self.pairs, self.lock = None, [], threading.Lock()

    def open(self):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, self.port))
        listener.listen()
        self.listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def close(self):
        if self.listener is not None:
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
        self.listener = None
        with self.lock:
            pairs, self.pairs = self.pairs, []
        for pair in pairs:
            self._hang_up(pair)

    def _accept(self, listener):
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection((HOST, self.target))
            except OSError:
                near.close()
                continue
            with self.lock:
                self.pairs.append((near, far))
            for ends in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            self._hang_up((source, sink))

    @staticmethod
    def _hang_up(pair):
        for end in pair:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Client:
    """A client of the broker. messages: (topic, payload as text, retained, correlation data), in order of arrival."""

    def __init__(self, port, version, filters=(), name=""):
        from paho.mqtt import client as paho

        self.filters, self.messages, self.ready = list(filters), [], threading.Event()
        self.refused = None
        protocol = paho.MQTTv5 if version == "5" else paho.MQTTv311
        self.paho = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=name, protocol=protocol)
        self.paho.reconnect_delay_set(1, 1)
        self.paho.on_connect, self.paho.on_disconnect = self._on_connect, self._on_disconnect
        self.paho.on_subscribe, self.paho.on_message = self._on_subscribe, self._on_message
        self.paho.connect(HOST, port, keepalive=30)
        self.paho.loop_start()

    def _on_connect(self, client, userdata, flags, reason, properties):
        if reason.is_failure:
            self.refused = str(reason)
        elif self.filters:
            client.subscribe([(topic, 1) for topic in self.filters])
        else:
            self.ready.set()

    def _on_subscribe(self, client, userdata, mid, reasons, properties):
        refused = [str(reason) for reason in reasons if reason.is_failure]
        if refused:
            self.refused = f"the subscription was refused: {refused[0]}"
        else:
            self.ready.set()

    def _on_disconnect(self, client, userdata, flags, reason, properties):
        self.ready.clear()

    def _on_message(self, client, userdata, message):
        correlation = getattr(message.properties, "CorrelationData", None)
        self.messages.append((message.topic, message.payload.decode(errors="replace"), message.retain, correlation))

    def wait_until_ready(self, seconds=PATIENCE):
        if not self.ready.wait(seconds):
            raise Failure(f"our own client is not let in: {self.refused or 'no answer'}")
        return self

    def publish(self, topic, payload, response=None, correlation=None):
        properties = None
        if response is not None:
            from paho.mqtt.packettypes import PacketTypes
            from paho.mqtt.properties import Properties

            properties = Properties(PacketTypes.PUBLISH)
            properties.ResponseTopic, properties.CorrelationData = response, correlation
        self.paho.publish(topic, payload, qos=1, properties=properties).wait_for_publish(PATIENCE)

    def close(self):
        self.paho.disconnect()
        try:
            self.paho.loop_stop()
        except AttributeError:  # its thread ended by itself just then
            pass


class Gateway:
    """One trackbus, reached by trackers at port."""

    def __init__(self, world, binary, name, broker_port, intake=True):
        self.world, self.binary, self.name, self.process = world, binary, name, None
        self.port = free_port()
        self.log = world.work / f"{name}.log"
        self.config = world.work / f"{name}.json"
        key = world.work / "commands.key"  # of all gateways on a broker
        key.touch(mode=0o600)
        key.write_text(KEY)
        self.config.write_text(json.dumps({
            "channels": [{"id": 1, "name": "mictrack", "protocol": "mictrack", "tcp": f"{HOST}:{self.port}"}],
            "mqtt": {"url": f"mqtt://{HOST}:{broker_port}", "client_id": name},
            "store": {"path": str(world.work / f"{name}.db")},
            "commands": {"intake": intake, "key_file": str(key)},
        }))

    def start(self):
        clean = {key: value for key, value in os.environ.items() if not key.startswith("TRACKBUS_")}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [self.binary, "run", "-c", self.config], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=self.world.work, env=clean, start_new_session=True,
            )
        self.world.processes.running.append(self.process)
        wait_for(f"{self.name} does not start", lambda: listens(self.port))

    def kill(self):
        self.world.processes.kill(self.process)

    def stop(self):
        if self.process.poll() is not None:
            raise Failure(f"{self.name} has ended, exit code {self.process.returncode}")
        self.process.terminate()
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failure(f"{self.name} does not stop") from None
        self.world.processes.running.remove(self.process)
        if code != 0:
            raise Failure(f"{self.name} ends with exit code {code}")

    def lines(self, start=0):
        return self.log.read_text(errors="replace").splitlines()[start:] if self.log.exists() else []


class Tracker:
    """A Mictrack tracker. Each report carries its number as message.seqnum."""

    def __init__(self, ident):
        self.ident, self.sequence, self.socket = ident, 0, None

    def connect(self, port):
        self.close()
        self.socket = socket.create_connection((HOST, port), PATIENCE)
        self.socket.settimeout(PATIENCE)

    def close(self):
        if self.socket is not None:
            self.socket.close()
        self.socket = None

    def _send(self, frame):
        self.socket.sendall(frame.encode())
        return self.sequence

    def report(self):
        """Returns the report's number."""
        self.sequence += 1
        position = f"10+{self._time()}+22.63827+114.02922+2.14+69+2+3744"
        return self._send(f"MT;6;{self.ident};R0;{position}+{self.sequence}\r\n")

    def long_report(self):
        """One with a Wi-Fi list that makes a message of more than LARGEST bytes."""
        self.sequence += 1
        points = ",".join(f"6a:db:54:5a:79:{number:02x},-91" for number in range(60))
        return self._send(f"MT;6;{self.ident};R1;{self._time()}+{points}+3+3831+{self.sequence}\r\n")

    @staticmethod
    def _time():
        return time.strftime("%y%m%d%H%M%S", time.gmtime())

    def take_command(self, expected, answer):
        """Waits for the bytes of a command and answers it."""
        try:
            command = self.socket.recv(200).decode(errors="replace")
        except TimeoutError:
            raise Failure(f"the device does not get the command (waited {PATIENCE} s)") from None
        if command != expected:
            raise Failure(f"the device got '{command}' instead of '{expected}'")
        self._send(answer)
