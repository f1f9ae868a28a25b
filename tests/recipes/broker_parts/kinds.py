"""The brokers of tests/recipes/brokers: where each is had, how it is started, and what it cannot do by its own word or by
the MQTT specification. `lacks` names the steps of the flow that are expected to fail and says whose fault that is; a step
that fails and does not stand there is a fault of the gateway, and one that works all the same is reported too."""
import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from world import FORBIDDEN, HOST, LARGEST, Client, Failure, NoBroker, free_port, listens, wait_for

PARTS = Path(__file__).resolve().parent
NO_RESPONSE_TOPICS = "MQTT 3.1.1 has no response topics"


def run(command, cwd, env=None, seconds=900):
    done = subprocess.run([str(part) for part in command], cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=seconds, env={**os.environ, **(env or {})})
    if done.returncode != 0:
        raise Failure(f"{command[0]} failed: {' / '.join(done.stdout.strip().splitlines()[-4:])[:400]}")
    return done.stdout


def need(tool, package):
    """The tool is in the PATH; root gets it from Debian's package."""
    if shutil.which(tool) is None and os.geteuid() == 0:
        print(f"== Installing {package}", file=sys.stderr, flush=True)
        environment = {"DEBIAN_FRONTEND": "noninteractive"}
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package]
        try:
            run(install, "/", environment)
        except Failure:
            run(["apt-get", "update", "-qq"], "/")
            run(install, "/", environment)
    if shutil.which(tool) is None:
        raise Failure(f"{tool} is not there: sudo apt-get install {package}")


def debian_version(package):
    text = run(["dpkg-query", "-W", "-f", "${Version}", package], "/")
    return re.split(r"[-+]", text)[0]


class Broker:
    title = ""  # as in the table
    version = ""
    mqtt = "5, 3.1.1"  # what it says that it speaks
    speaks = "5"  # what the gateway is to speak with it
    refusal = "size"  # what it is told to refuse: messages above LARGEST, or the topic of FORBIDDEN's messages
    tells = True  # whether it says that it refuses, by its acknowledgement or by closing the connection
    wildcards = True  # whether it gives what it keeps to a subscription with wildcards
    dots = True  # whether it leaves dots in topics alone
    start_time = 60  # seconds
    note = ""  # what else is to be known of it
    lacks = {}

    def __init__(self, world, folder, node=""):
        self.world, self.folder, self.node = world, folder, node
        self.port, self.process = free_port(), None
        self.data = world.work / f"broker{node}"
        self.data.mkdir()

    @classmethod
    def fetch(cls, folder):
        """Gets it into that folder."""

    def prepare(self):
        """Once, before the first start."""

    def command(self):
        """The command and its environment."""

    def log(self):
        return self.world.work / f"broker{self.node}.log"

    def start(self):
        if self.process is None:
            self.prepare()
        command, environment = self.command()
        self.process = self.world.processes.start(self.log(), command, self.data, environment)
        try:
            wait_for("the broker does not start", self._is_up, self.start_time)
        except Failure as failure:
            raise NoBroker(str(failure)) from None

    def _is_up(self):
        if self.process.poll() is not None:
            raise Failure(f"the broker ends with exit code {self.process.returncode}")
        if not listens(self.port):
            return False
        try:
            client = Client(self.port, self.speaks, ["recipe/ready"])
        except OSError:
            return False
        up = client.ready.wait(1)
        client.close()
        return up

    def kill(self):
        self.world.processes.kill(self.process)


# --- Mosquitto ---


DENIED = (f"topic readwrite #\ntopic deny trackbus/message/gw/channels/1/{FORBIDDEN}\n"
          f"topic deny trackbus/message/gw/devices/{FORBIDDEN}\n")


class Mosquitto(Broker):
    queued = 1000  # Mosquitto's own default

    @classmethod
    def fetch(cls, folder):
        need("mosquitto", "mosquitto")
        cls.version = debian_version("mosquitto")
        cls.title = f"Mosquitto, max_queued_messages {cls.queued:,}"

    def prepare(self):
        (self.data / "mosquitto.conf").write_text(
            f"listener {self.port} {HOST}\nallow_anonymous true\npersistence true\npersistence_location {self.data}/\n"
            f"autosave_interval 1\nmax_queued_messages {self.queued}\n{self.limit()}\n"
        )
        if os.geteuid() == 0:  # otherwise it becomes the user mosquitto, who may not write here
            with open(self.data / "mosquitto.conf", "a") as config:
                config.write("user root\n")

    def limit(self):
        if self.refusal == "size":
            return f"message_size_limit {LARGEST}"
        (self.data / "acl").write_text(DENIED)
        return f"acl_file {self.data}/acl"

    def command(self):
        return ["mosquitto", "-c", self.data / "mosquitto.conf"], None


class Mosquitto0(Mosquitto):
    queued, refusal = 0, "topic"


class Mosquitto100000(Mosquitto):
    queued = 100000


# --- from Maven ---


def fetch_maven(folder, group, artifact, version, goal, more=""):
    need("javac", "default-jdk-headless")
    need("mvn", "maven")
    (folder / "pom.xml").write_text(
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>trackbus</groupId><artifactId>recipe</artifactId><version>1</version><packaging>pom</packaging>"
        f"<dependencies><dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>"
        f"<version>{version}</version>{more}</dependency></dependencies></project>"
    )
    run(["mvn", "-q", "-B", f"dependency:{goal}-dependencies", "-DoutputDirectory=got", f"-DexcludeTransitive={str(goal == 'unpack').lower()}"], folder)


class HiveMQ(Broker):
    title, version, start_time = "HiveMQ CE", "2025.5", 180

    @classmethod
    def fetch(cls, folder):
        if not list(folder.glob("got/hivemq-community-edition-embedded-*.jar")):
            fetch_maven(folder, "com.hivemq", "hivemq-community-edition-embedded", cls.version, "copy")

    def prepare(self):
        (self.data / "conf").mkdir()
        (self.data / "data").mkdir()
        (self.data / "conf" / "config.xml").write_text(
            f"<hivemq><listeners><tcp-listener><port>{self.port}</port><bind-address>{HOST}</bind-address></tcp-listener>"
            f"</listeners><mqtt><packets><max-packet-size>{LARGEST}</max-packet-size></packets></mqtt>"
            "<anonymous-usage-statistics><enabled>false</enabled></anonymous-usage-statistics></hivemq>"
        )

    def command(self):
        return ["java", "-Xmx512m", "-cp", f"{self.folder}/got/*", PARTS / "HiveMQ.java", self.data / "conf" / "config.xml",
                self.data / "data"], None


ARTEMIS = """<configuration xmlns="urn:activemq"><core xmlns="urn:activemq:core"><name>{name}</name>
<persistence-enabled>true</persistence-enabled><journal-type>NIO</journal-type>
<paging-directory>paging</paging-directory><bindings-directory>bindings</bindings-directory>
<journal-directory>journal</journal-directory><large-messages-directory>large</large-messages-directory>
<security-enabled>false</security-enabled><critical-analyzer>false</critical-analyzer>
<cluster-user>node</cluster-user><cluster-password>node</cluster-password>
{cluster}<acceptors><acceptor name="mqtt">tcp://{host}:{port}?protocols=MQTT;maximumPacketSize={largest}</acceptor>
{acceptor}</acceptors><addresses/></core></configuration>"""


class Artemis(Broker):
    title, version = "ActiveMQ Artemis", "2.40.0"
    cluster = acceptor = ""
    start_time = 180

    @classmethod
    def fetch(cls, folder):
        if not list(folder.glob("got/*/bin/artemis")):
            fetch_maven(folder, "org.apache.activemq", "apache-artemis", cls.version, "unpack",
                        "<type>zip</type><classifier>bin</classifier>")

    def prepare(self):
        home = next(self.folder.glob("got/*/bin/artemis"))
        run(["sh", home, "create", self.data / "node", "--user", "u", "--password", "p", "--allow-anonymous", "--silent",
             "--no-web", "--no-autotune", "--no-amqp-acceptor", "--no-stomp-acceptor", "--no-hornetq-acceptor",
             "--no-mqtt-acceptor", "--host", HOST, "--default-port", str(free_port()), "--java-memory", "512M"], self.data)
        (self.data / "node" / "etc" / "broker.xml").write_text(ARTEMIS.format(
            name=f"node{self.node}", host=HOST, port=self.port, largest=LARGEST, cluster=self.cluster, acceptor=self.acceptor))

    def command(self):
        return ["sh", self.data / "node" / "bin" / "artemis", "run"], None


# --- from Go ---


class Mochi(Broker):
    title, version, refusal = "mochi", "2.7.9", "topic"

    @classmethod
    def fetch(cls, folder):
        need("go", "golang")
        shutil.copy(PARTS / "mochi.go", folder / "main.go")
        if not (folder / "go.sum").exists():
            run(["go", "mod", "init", "recipe"], folder)
            run(["go", "get", f"github.com/mochi-mqtt/server/v2@v{cls.version}"], folder)
            run(["go", "mod", "tidy"], folder)
        run(["go", "build", "-o", "mochi", "."], folder)

    def command(self):
        return [self.folder / "mochi", f"{HOST}:{self.port}", self.data / "data", FORBIDDEN], None


class Nats(Broker):
    title, version, refusal, tells = "NATS", "2.15.2", "topic", False
    note = ("acknowledges what it does not allow and drops it, as MQTT 3.1.1 allows (section 3.3.5), so nobody can know that such "
            "a message is lost")
    mqtt, speaks = "3.1.1", "3.1.1"
    lacks = {"answer": NO_RESPONSE_TOPICS}
    cluster = replicas = ""

    @classmethod
    def fetch(cls, folder):
        need("go", "golang")
        if not (folder / "nats-server").exists():
            run(["go", "install", f"github.com/nats-io/nats-server/v2@v{cls.version}"], folder, {"GOBIN": str(folder)})

    def prepare(self):
        forbidden = f'"trackbus.message.gw.channels.1.{FORBIDDEN}", "trackbus.message.gw.devices.{FORBIDDEN}"'
        (self.data / "nats.conf").write_text(
            f"server_name: node{self.node}\nhost: {HOST}\nport: {free_port()}\nmqtt {{ host: {HOST}, port: {self.port}{self.replicas} }}\n"
            f'jetstream {{ store_dir: "{self.data}/data" }}\n'
            "no_auth_user: all\naccounts { MAIN { jetstream: enabled, users: [ { user: all, password: all, "
            f"permissions {{ publish {{ deny: [{forbidden}] }} }} }} ] }} }}\n{self.cluster}"
        )

    def command(self):
        return [self.folder / "nats-server", "-c", self.data / "nats.conf"], None


# --- the others ---


class Aedes(Broker):
    title, version, refusal = "aedes", "1.2.0", "topic"
    mqtt, speaks = "3.1.1", "3.1.1"
    lacks = {"answer": NO_RESPONSE_TOPICS}

    @classmethod
    def fetch(cls, folder):
        need("npm", "npm")
        if not (folder / "node_modules" / "aedes").exists():
            run(["npm", "install", "--prefix", folder, "--no-audit", "--no-fund", f"aedes@{cls.version}"], folder)
        shutil.copy(PARTS / "aedes.mjs", folder / "aedes.mjs")

    def command(self):
        return ["node", self.folder / "aedes.mjs", self.port, FORBIDDEN], None


class RabbitMQ(Broker):
    title, mqtt, speaks = "RabbitMQ, MQTT plugin", "3.1.1", "3.1.1"
    wildcards = dots = False
    note = ("gives what it keeps only to a subscription without wildcards, against MQTT 3.1.1 (section 3.3.1.3): dashboards that "
            "subscribe to trackbus/state/# see a value when it changes. Its fault")
    refusal = "topic"
    lacks = {
        "answer": NO_RESPONSE_TOPICS,
        "telemetry": "makes a slash of each dot in a topic: telemetry/position.latitude comes as telemetry/position/latitude. Its fault, a "
                     "dot means nothing in MQTT 3.1.1 (section 4.7); telemetry/position and the messages are right",
        "last will": "the Last Will comes, but a gateway that was killed and is started again cannot read with a wildcard which devices "
                     "are retained as connected, so they stay so until they are heard. Its fault, MQTT 3.1.1 (section 3.3.1.3)",
    }
    start_time = 120

    @classmethod
    def fetch(cls, folder):
        need("rabbitmq-server", "rabbitmq-server")
        cls.version = debian_version("rabbitmq-server")

    def prepare(self):
        self.epmd, self.dist = free_port(), free_port()
        (self.data / "plugins").write_text("[rabbitmq_mqtt].\n")
        (self.data / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = {HOST}:{free_port()}\nmqtt.listeners.tcp.1 = {HOST}:{self.port}\n"
            f"mqtt.allow_anonymous = true\n{self.limit()}\n"
        )
        # Without one of our own the node would leave a daemon behind.
        self.world.processes.start(self.log(), ["epmd", "-port", self.epmd, "-address", HOST], self.data)
        wait_for("epmd does not start", lambda: listens(self.epmd))

    def limit(self):
        if self.refusal == "size":
            return f"max_message_size = {LARGEST}"
        salt = os.urandom(4)
        password = base64.b64encode(salt + hashlib.sha256(salt + b"guest").digest()).decode()
        (self.data / "definitions.json").write_text(json.dumps({
            "users": [{"name": "guest", "password_hash": password, "hashing_algorithm": "rabbit_password_hashing_sha256",
                       "tags": "administrator"}],
            "vhosts": [{"name": "/"}],
            "permissions": [{"user": "guest", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}],
            "topic_permissions": [{"user": "guest", "vhost": "/", "exchange": "amq.topic", "read": ".*",
                                   "write": rf"^(?!trackbus\.message\..*{FORBIDDEN}$)"}],
        }))
        return f"load_definitions = {self.data}/definitions.json"

    def command(self):
        name = "trackbus" + self.node
        return ["/usr/lib/rabbitmq/bin/rabbitmq-server"], {
            "HOME": str(self.data), "RABBITMQ_NODENAME": f"{name}@localhost", "RABBITMQ_NODE_IP_ADDRESS": HOST,
            "RABBITMQ_CONFIG_FILE": str(self.data / "rabbitmq.conf"), "RABBITMQ_MNESIA_BASE": str(self.data / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.data / "log"), "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.data / "plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(self.data / "generated"), "RABBITMQ_DIST_PORT": str(self.dist),
            "RABBITMQ_PID_FILE": str(self.data / "pid"), "ERL_EPMD_PORT": str(self.epmd), "ERL_EPMD_ADDRESS": HOST,
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }


class RabbitMQSize(RabbitMQ):
    title, refusal = "RabbitMQ, MQTT plugin, max_message_size", "size"
    note = ("neither acknowledges a message that is too large nor anything after it, and keeps the connection, against MQTT 3.1.1 "
            "(section 3.3.5). Its fault; reports wait for about a minute until the gateway has found the message")


RUMQTTD = """id = 0
[router]
id = 0
max_connections = 100
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[v5.1]
name = "v5"
listen = "{host}:{port}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = {largest}
max_inflight_count = 100
dynamic_filters = true
"""


class Rumqttd(Broker):
    title, version = "rumqttd", "0.20.0"

    @classmethod
    def fetch(cls, folder):
        need("cargo", "cargo")
        if not (folder / "bin" / "rumqttd").exists():
            # With a place for what is built, another run goes on where one was stopped.
            run(["cargo", "install", "-q", "rumqttd", "--version", cls.version, "--root", folder,
                 "--target-dir", folder / "target"], folder, seconds=1800)

    def prepare(self):
        (self.data / "rumqttd.toml").write_text(RUMQTTD.format(host=HOST, port=self.port, largest=LARGEST))

    def command(self):
        return [self.folder / "bin" / "rumqttd", "-q", "-c", self.data / "rumqttd.toml"], None


# --- clusters ---


class Cluster:
    """Several nodes; node holds the class of one. The gateways stand at the first two."""

    node, nodes = None, 2
    note = ""
    lacks = {}

    def __init__(self, world, folder):
        self.brokers = [self.node(world, folder, str(number + 1)) for number in range(self.nodes)]
        self.speaks, self.wildcards = self.node.speaks, self.node.wildcards
        self.join()

    @classmethod
    def fetch(cls, folder):
        cls.node.fetch(folder)
        cls.version, cls.mqtt = cls.node.version, cls.node.mqtt

    def join(self):
        """Tells each node of the others, before they start."""


class NatsCluster(Cluster):
    title, node, nodes = "NATS, three nodes", Nats, 3

    def join(self):
        ports = [free_port() for _ in self.brokers]
        routes = ", ".join(f'"nats://{HOST}:{port}"' for port in ports)
        for broker, port in zip(self.brokers, ports):
            broker.replicas = f", stream_replicas: {self.nodes}"
            broker.cluster = f"cluster {{ name: trackbus, host: {HOST}, port: {port}, routes: [{routes}] }}\n"


class ArtemisCluster(Cluster):
    title, node = "ActiveMQ Artemis, two nodes", Artemis
    lacks = {"state": "a node keeps only what was published at that node; MQTT says nothing of clusters. All gateways and dashboards "
                      "have to use one node",
             "command": "the command is executed, but the node at which it was published keeps it as waiting: it was emptied at the other"}

    def join(self):
        ports = [free_port() for _ in self.brokers]
        for own, broker in enumerate(self.brokers):
            broker.acceptor = f'<acceptor name="node">tcp://{HOST}:{ports[own]}?protocols=CORE</acceptor>'
            connectors = "".join(f'<connector name="c{i}">tcp://{HOST}:{port}</connector>' for i, port in enumerate(ports))
            others = "".join(f"<connector-ref>c{i}</connector-ref>" for i in range(len(ports)) if i != own)
            broker.cluster = (
                f"<connectors>{connectors}</connectors><cluster-connections><cluster-connection name=\"trackbus\">"
                f"<connector-ref>c{own}</connector-ref><retry-interval>500</retry-interval>"
                "<message-load-balancing>ON_DEMAND</message-load-balancing><max-hops>1</max-hops>"
                f"<static-connectors>{others}</static-connectors></cluster-connection></cluster-connections>"
                "<address-settings><address-setting match=\"#\"><redistribution-delay>0</redistribution-delay>"
                "</address-setting></address-settings>"
            )


KINDS = {
    "mosquitto": Mosquitto, "mosquitto-0": Mosquitto0, "mosquitto-100000": Mosquitto100000, "hivemq": HiveMQ,
    "artemis": Artemis, "mochi": Mochi, "nats": Nats, "aedes": Aedes, "rabbitmq": RabbitMQ,
    "rabbitmq-size": RabbitMQSize, "rumqttd": Rumqttd,
    "nats-cluster": NatsCluster, "artemis-cluster": ArtemisCluster,
}
