"""The flow of tests/recipes/brokers: its steps, for one broker and for a cluster. A step raises Failure with what happened."""
import json
import time
from collections import Counter

from world import FORBIDDEN, PATIENCE, Client, Failure, Gate, Gateway, Tracker, wait_for

ONE, SLEEPER = "866425031300001", "866425031300002"
STATE = "trackbus/state/gw/"
COMMAND, ON_THE_WIRE, REPLY = '{"name":"mode","properties":{"mode":6,"interval":60}}', "mode,6,60#", "mode=Success!\r\n"


def device_id(ident):
    return str(int(ident))


class Watching:
    """What both flows look at."""

    def __init__(self, world, broker, binary):
        self.world, self.broker, self.binary = world, broker, binary

    def watch(self, port):
        self.watcher = Client(port, self.broker.speaks, ["trackbus/#", "answers/#"], "watcher").wait_until_ready()

    def came(self, ident):
        """How often each report of the tracker came, on its two topics."""
        found = {"channels/1/": Counter(), "devices/": Counter()}
        for topic, payload, _, _ in list(self.watcher.messages):
            for part, counts in found.items():
                if topic == f"trackbus/message/gw/{part}{ident}" or topic == f"trackbus/message/gw/{part}{device_id(ident)}":
                    counts[json.loads(payload).get("message.seqnum")] += 1
        return found

    def expect_reports(self, ident, numbers, seconds=PATIENCE):
        def missing():
            return {part: sorted(set(numbers) - set(counts)) for part, counts in self.came(ident).items()}

        def what():
            return "; ".join(f"{len(lost)} of {len(numbers)} reports did not come on message/gw/{part}…"
                             for part, lost in missing().items() if lost)

        wait_for(what, lambda: not any(missing().values()), seconds)

    def retained(self, port, topics):
        """What the broker keeps under state, as a new client sees it. topics are those wanted, for a broker that does not
        give what it keeps to a subscription with wildcards."""
        filters = [STATE + "#"] if self.broker.wildcards else [STATE + topic for topic in topics]
        reader = Client(port, self.broker.speaks, filters)
        try:
            reader.wait_until_ready()
            quiet = time.monotonic() + 1
            count = -1
            while time.monotonic() < quiet:
                if len(reader.messages) != count:
                    count, quiet = len(reader.messages), time.monotonic() + 0.5
                time.sleep(0.05)
            return {topic[len(STATE):]: payload for topic, payload, retained, _ in list(reader.messages) if retained and payload}
        finally:
            reader.close()

    def expect_retained(self, port, wanted, seconds=PATIENCE):
        """wanted: topic under state to what its payload must be: a text, a function that says whether it is right, or None."""
        def wrong():
            try:
                kept = self.retained(port, wanted)
            except (Failure, OSError) as failure:  # a cluster that has just lost a node
                self.seen = str(failure)
                return True
            for topic, value in wanted.items():
                payload = kept.get(topic)
                right = payload == value if value is None or isinstance(value, str) else payload is not None and value(payload)
                if not right:
                    self.seen = f"state/gw/{topic} is " + ("not there" if payload is None else f"'{payload[:80]}'")
                    return True
            return False

        wait_for(lambda: self.seen, lambda: not wrong(), seconds)

    def waiting_commands(self, port, ident):
        """Topics of the device's commands that the broker keeps as waiting; of those that were ever seen."""
        start = STATE + f"devices/{device_id(ident)}/commands-queue/"
        seen = {topic[len(STATE):] for topic, _, _, _ in list(self.watcher.messages) if topic.startswith(start)}
        return [topic for topic in self.retained(port, seen) if topic in seen] if seen else []

    def logged(self, ident, end):
        """Payloads of the device's log entries."""
        start = f"trackbus/log/gw/devices/{device_id(ident)}/"
        return [json.loads(payload) for topic, payload, _, _ in list(self.watcher.messages)
                if topic.startswith(start) and topic.endswith(end)]

    def wait_until_connected(self, gateway, since=0, seconds=PATIENCE):
        wait_for(f"{gateway.name} does not connect", lambda: any(": connected" in line for line in gateway.lines(since)), seconds)


def is_online(payload):
    return json.loads(payload)["state"] == "online"


def is_offline(payload):
    return json.loads(payload)["state"] == "offline"


class Flow(Watching):
    """With one broker."""

    STEPS = ("connects", "reports", "state", "telemetry", "last will", "sleeper", "answer", "broker back", "gateway back",
             "command kept", "refused")

    def start(self):
        self.broker.start()
        self.gate = Gate(self.broker.port)
        self.gate.open()
        self.gateway = Gateway(self.world, self.binary, "trackbus", self.gate.port)
        self.one, self.sleeper, self.forbidden = Tracker(ONE), Tracker(SLEEPER), Tracker(FORBIDDEN)
        self.watch(self.broker.port)

    def gateways(self):
        return [self.gateway]

    def connect(self, tracker=None):
        tracker = tracker or self.one
        tracker.connect(self.gateway.port)
        return tracker

    def connects(self):
        self.gateway.start()
        self.wait_until_connected(self.gateway)

    def reports(self):
        self.connect()
        self.expect_reports(ONE, [self.one.report() for _ in range(20)])

    def state(self):
        device = f"devices/{device_id(ONE)}"
        self.expect_retained(self.broker.port, {
            "instances/trackbus": is_online, device: lambda payload: json.loads(payload)["ident"] == ONE,
            device + "/connected": "true", "channels/1": lambda payload: json.loads(payload)["connections"] >= 1,
        })

    def telemetry(self):
        telemetry = f"devices/{device_id(ONE)}/telemetry/"
        self.expect_retained(self.broker.port, {
            telemetry + "message.seqnum": str(self.one.sequence), telemetry + "position.latitude": "22.63827",
            telemetry + "position": lambda payload: json.loads(payload)["longitude"] == 114.02922,
        })

    def last_will(self):
        before = len(self.watcher.messages)
        self.gateway.kill()
        try:
            wait_for("a client that watches does not see 'offline'", lambda: any(
                topic == STATE + "instances/trackbus" and payload and is_offline(payload)
                for topic, payload, _, _ in self.watcher.messages[before:]), 15)
            self.expect_retained(self.broker.port, {"instances/trackbus": is_offline}, 15)
        finally:
            self._start_again()
        self.expect_retained(self.broker.port, {"instances/trackbus": is_online, f"devices/{device_id(ONE)}/connected": "false"})

    def _start_again(self):
        lines = len(self.gateway.lines())
        self.gateway.start()
        self.wait_until_connected(self.gateway, lines)

    def sleeper_(self):
        self._sends_and_sleeps(self.sleeper)
        client = Client(self.broker.port, self.broker.speaks).wait_until_ready()
        respond = ("answers/sleeper", b"42") if self.broker.speaks == "5" else (None, None)
        client.publish(f"trackbus/command/gw/devices/{device_id(SLEEPER)}", COMMAND, *respond)
        client.close()
        wait_for("no log entry 'queued'", lambda: self.logged(SLEEPER, "/mode/queued"))
        wait_for("the waiting command is not retained", lambda: self.waiting_commands(self.broker.port, SLEEPER))
        self._wakes(self.sleeper)
        wait_for("no log entry 'processed'", lambda: any(entry["executed"] for entry in self.logged(SLEEPER, "/mode/processed")))
        wait_for("the processed command stays retained", lambda: not self.waiting_commands(self.broker.port, SLEEPER))

    def _sends_and_sleeps(self, tracker):
        self.connect(tracker)
        self.expect_reports(tracker.ident, [tracker.report()])
        tracker.close()
        wait_for("no log entry 'disconnected'", lambda: self.logged(tracker.ident, "/disconnected"))

    def _wakes(self, tracker):
        self.connect(tracker).report()
        tracker.take_command(ON_THE_WIRE, REPLY)

    def answer(self):
        if self.broker.speaks != "5":
            raise Failure("not tried")
        answers = wait_for("nothing came to the response topic", lambda: [
            (payload, correlation) for topic, payload, _, correlation in list(self.watcher.messages) if topic == "answers/sleeper"])
        payload, correlation = answers[-1]
        if not json.loads(payload).get("executed") or correlation != b"42":
            raise Failure(f"'{payload[:80]}' came to the response topic, correlation data {correlation}")

    def broker_back(self):
        self.connect()
        self.expect_reports(ONE, [self.one.report()])
        self.gate.close()
        self.broker.kill()
        sent = self._reports_slowly(20)
        self.broker.start()
        self.watcher.wait_until_ready()
        self.gate.open()
        self.expect_reports(ONE, sent, 60)
        device = f"devices/{device_id(ONE)}"
        wanted = {"instances/trackbus": is_online, device: lambda payload: json.loads(payload)["ident"] == ONE,
                  device + "/connected": "true", "channels/1": lambda payload: True}
        for ident in (ONE, SLEEPER):
            wanted[f"devices/{device_id(ident)}/telemetry/position"] = lambda payload: json.loads(payload)["latitude"] == 22.63827
        if self.broker.dots:
            wanted[device + "/telemetry/message.seqnum"] = str(self.one.sequence)
        self.expect_retained(self.broker.port, wanted, 60)

    def _reports_slowly(self, count):
        sent = []
        for _ in range(count):
            sent.append(self.one.report())
            time.sleep(0.1)
        return sent

    def gateway_back(self):
        """Stopped while the broker is away, so that it has to keep what it read."""
        self.connect()
        self.expect_reports(ONE, [self.one.report()])
        self.gate.close()
        sent = self._reports_slowly(20)
        time.sleep(0.5)  # TCP has them, and nothing says when the gateway has read them
        self.gateway.stop()
        lines = len(self.gateway.lines())
        self.gateway.start()
        self.gate.open()
        self.wait_until_connected(self.gateway, lines)
        self.expect_reports(ONE, sent)
        self.expect_retained(self.broker.port, {"instances/trackbus": is_online})

    def command_kept(self):
        """Published while the gateway is away."""
        ident = device_id(ONE)
        self.gateway.stop()
        client = Client(self.broker.port, self.broker.speaks).wait_until_ready()
        client.publish(f"trackbus/command/gw/devices/{ident}", COMMAND)
        client.close()
        self._start_again()
        self._wakes(self.one)
        wait_for("no log entry 'processed'", lambda: any(entry["executed"] for entry in self.logged(ONE, "/mode/processed")))

    def refused(self):
        """Some reports, then at once some more and among them the message that the broker is told to refuse."""
        self.connect()
        lines = len(self.gateway.lines())
        sent = self._reports_slowly(3)
        refused, number, more = self._refused_among_others()
        self.expect_reports(ONE, sent + more, 90)
        if any(number in counts for counts in self.came(refused.ident).values()):
            raise Failure("the broker did not refuse it")
        self.expect_reports(ONE, self._reports_slowly(3))
        topic = f"trackbus/message/gw/channels/1/{refused.ident}"
        if self.broker.tells:
            wait_for("the log does not name the message that was refused",
                     lambda: any(topic in line for line in self.gateway.lines(lines)), 10)
        self._go_on_after_a_restart()

    def _refused_among_others(self):
        """Returns who sent it, its number, and the numbers of the other reports."""
        if self.broker.refusal == "topic":
            self.connect(self.forbidden)
        before = [self.one.report() for _ in range(4)]
        refused = self.one if self.broker.refusal == "size" else self.forbidden
        number = refused.long_report() if self.broker.refusal == "size" else refused.report()
        return refused, number, before + [self.one.report() for _ in range(4)]

    def _go_on_after_a_restart(self):
        lines = len(self.gateway.lines())
        self.gateway.stop()
        self.gateway.start()
        self.wait_until_connected(self.gateway, lines)
        self.connect()
        self.expect_reports(ONE, self._reports_slowly(3))

    def steps(self):
        methods = (self.connects, self.reports, self.state, self.telemetry, self.last_will, self.sleeper_, self.answer,
                   self.broker_back, self.gateway_back, self.command_kept, self.refused)
        return zip(self.STEPS, methods)


class ClusterFlow(Watching):
    """With two gateways on different nodes; the watcher stands at the first node."""

    STEPS = ("connects", "reports", "state", "device moves", "command", "node away", "node back")

    def start(self):
        nodes = self.broker.brokers
        for node in nodes:  # none serves before there are enough of them
            node.prepare()
            command, environment = node.command()
            node.process = self.world.processes.start(node.log(), command, node.data, environment)
        for node in nodes:
            wait_for("the cluster does not start", node._is_up, 90)
        self.first, self.second = (Gateway(self.world, self.binary, f"gateway{i + 1}", nodes[i].port, i == 0) for i in (0, 1))
        self.one, self.held = Tracker(ONE), []
        self.watch(nodes[0].port)

    def gateways(self):
        return [self.first, self.second]

    def connects(self):
        for gateway in self.gateways():
            gateway.start()
        for gateway in self.gateways():
            self.wait_until_connected(gateway)

    def _reports_at(self, gateway):
        self.one.connect(gateway.port)
        return [self.one.report() for _ in range(10)]

    def reports(self):
        for gateway in (self.first, self.second):
            self.expect_reports(ONE, self._reports_at(gateway))

    def state(self):
        for node in self.broker.brokers[:2]:
            self.expect_retained(node.port, {
                "instances/gateway1": is_online, "instances/gateway2": is_online, f"devices/{device_id(ONE)}/connected": "true",
                f"devices/{device_id(ONE)}/telemetry/message.seqnum": str(self.one.sequence)})

    def device_moves(self):
        """It is connected afterwards, whatever the gateway that it left says."""
        for gateway in (self.first, self.second):
            old, self.one.socket = self.one.socket, None
            self.expect_reports(ONE, self._reports_at(gateway))
            old.close()
            wait_for("the old connection is not seen to close", lambda: self.logged(ONE, "/disconnected"))
            time.sleep(1)  # for what the gateway that it left might say
            for node in self.broker.brokers[:2]:
                self.expect_retained(node.port, {f"devices/{device_id(ONE)}/connected": "true"})

    def command(self):
        """Given at the first node, taken in by the first gateway, delivered by the second."""
        client = Client(self.broker.brokers[0].port, self.broker.speaks).wait_until_ready()
        client.publish(f"trackbus/command/gw/devices/{device_id(ONE)}", COMMAND)
        client.close()
        self.one.take_command(ON_THE_WIRE, REPLY)
        wait_for("no log entry 'processed'", lambda: any(entry["executed"] for entry in self.logged(ONE, "/mode/processed")))
        wait_for("the processed command stays retained", lambda: not self.waiting_commands(self.broker.brokers[0].port, ONE))

    def node_away(self):
        """The second gateway's node is killed; the device goes on reporting there, then moves to the first gateway. Nothing
        is asked of the Last Will: who dies with its client need not publish it (section 3.1.2.5)."""
        self.broker.brokers[1].kill()
        self.held = [self.one.report() for _ in range(10)]
        self.expect_reports(ONE, self._reports_at(self.first), 60)
        self.expect_retained(self.broker.brokers[0].port, {f"devices/{device_id(ONE)}/connected": "true"}, 60)

    def node_back(self):
        before = len(self.watcher.messages)
        self.broker.brokers[1].start()
        self.expect_reports(ONE, self.held, 90)
        self.expect_reports(ONE, self._reports_at(self.second))
        wait_for("the second gateway does not say 'online' again", lambda: any(
            topic == STATE + "instances/gateway2" and payload and is_online(payload)
            for topic, payload, _, _ in self.watcher.messages[before:]))

    def steps(self):
        methods = (self.connects, self.reports, self.state, self.device_moves, self.command, self.node_away, self.node_back)
        return zip(self.STEPS, methods)
