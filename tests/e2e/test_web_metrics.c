// The metrics: each moves, and for the reason that its HELP gives.
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/e2e/http_client.h"
#include "tests/e2e/rig.h"

TestSuite(web_metrics, .fini = rig_clean);

#define TO_VAN   "command/gw/devices/" VAN
#define TO_LORRY "command/gw/devices/" LORRY
#define QUEUE    "/commands-queue"
#define LABELS   "{instance=\"trackbus\",channel_id=\"1\",channel=\"mictrack\",protocol=\"mictrack\""
#define OF_RADIO "{instance=\"trackbus\",channel_id=\"2\",channel=\"radio\",protocol=\"mictrack\"}"
#define IT       "{instance=\"trackbus\"} "
#define ENDED    "trackbus_commands_total{instance=\"trackbus\",end="

// Channel 1 over TCP and channel 2 over UDP.
static struct rig *up(int *port) {
    struct rig *rig = rig_up(
        "{'web':{'listen':'127.0.0.1:0'},'limits':{'connections_per_address':2,'datagrams_per_second':1},"
        "'channels':[{'id':1,'name':'mictrack','protocol':'mictrack','tcp':'127.0.0.1:0'},"
        "{'id':2,'name':'radio','protocol':'mictrack','udp':'127.0.0.1:0'}]}");
    *port = http_page_port(rig);
    return rig;
}

static size_t bytes; // that have been sent over TCP

static void say(int device, const char *text) {
    device_send(device, text);
    bytes += strlen(text);
}

// Two reports, one of which has a battery of 999.999 V; junk; a third connection.
static void play(struct rig *rig, int van, int car) {
    int radio = rig_udp_to(rig, "radio");
    for (int i = 0; i < 40; i++)
        device_send(radio, report("866425031300000", i));
    close(radio);
    say(van, report(VAN, 1));
    say(car, "MT;6;" CAR ";R0;10+190109091803+22.63827+114.02922+2.14+69+2+999999+1\r\n");
    rig_expect(rig, "message/gw/devices/" CAR, NULL);
    rig_expect(rig, "message/gw/devices/" VAN, NULL);
    int third = rig_tcp(rig);
    device_expect_closed(third);
    close(third);
    say(car, "nothing that is known\r\n");
    rig_expect(rig, "log/gw/channels/1/error", NULL);
}

static void answer(struct rig *rig, int van, const char *text) {
    rig_publish(rig, TO_VAN, "mode,6,60#");
    device_expect(van, "mode,6,60#");
    say(van, text);
    rig_expect(rig, "log/gw/devices/" VAN QUEUE "/custom/processed", NULL);
}

static void cancel_one(struct rig *rig) {
    char topic[128];
    rig_publish(rig, TO_LORRY, "{\"name\":\"reboot\"}");
    json_t *entry = json_of(rig_expect(rig, "log/gw/devices/" LORRY QUEUE "/reboot/queued", NULL));
    snprintf(topic, sizeof topic, "state/gw/devices/" LORRY QUEUE "/%lld",
             (long long)json_integer_value(json_object_get(entry, "id")));
    json_decref(entry);
    rig_publish_retained(rig, topic, "");
    rig_expect(rig, "log/gw/devices/" LORRY QUEUE "/reboot/canceled", NULL);
}

// Three executed, two failed (one before it was queued), one each canceled and expired; one waits.
static void command(struct rig *rig, int van) {
    for (int i = 0; i < 3; i++)
        answer(rig, van, "mode=Success!\r\n");
    answer(rig, van, "mode=Fail!\r\n");
    rig_publish(rig, TO_VAN, "{\"name\":\"mode\",\"properties\":{\"mode\":99}}");
    rig_expect(rig, "log/gw/devices/" VAN QUEUE "/mode/processed", NULL);
    cancel_one(rig);
    rig_publish(rig, TO_LORRY, "{\"name\":\"rconf\"}");
    rig_publish(rig, TO_LORRY, "{\"name\":\"rconf\",\"ttl\":1}");
    rig_expect(rig, "log/gw/devices/" LORRY QUEUE "/rconf/expired", NULL);
}

static double value_of(const char *text, const char *sample) {
    const char *found = strstr(text, sample);
    double value = -1;
    cr_assert(found != NULL && sscanf(found + strlen(sample), "%lf", &value) == 1, "no %s in:\n%s", sample,
              text);
    return value;
}

// At least so much, and no more than that where exactly is set.
static void expect(const char *text, const char *sample, double value, bool exactly) {
    double found = value_of(text, sample);
    cr_assert(exactly ? found == value : found >= value, "expected %g, got: %s%g\n%s", value, sample, found,
              text);
}

static void expect_of_devices(const char *text) {
    expect(text, "trackbus_connections" LABELS "} ", 2, true);
    expect(text, "trackbus_messages_total" LABELS "} ", 3, true);
    expect(text, "trackbus_received_bytes_total" LABELS "} ", (double)bytes, true);
    expect(text, "trackbus_answers_total" LABELS "} ", 4, true);
    expect(text, "trackbus_junk_bytes_total" LABELS "} ", 1, false);
    expect(text, "trackbus_values_left_out_total" LABELS "} ", 1, true);
    expect(text, "trackbus_refused_connections_total" LABELS "} ", 1, true);
    expect(text, "trackbus_refused_datagrams_total" LABELS "} ", 0, true);
    expect(text, "trackbus_refused_datagrams_total" OF_RADIO " ", 1, false);
    expect(text, "trackbus_messages_total" OF_RADIO " ", 1, false);
    expect(text, "trackbus_connections" OF_RADIO " ", 0, true);
    expect(text, "trackbus_frames_total" LABELS ",verdict=\"OK\"} ", 7, true);
}

static void expect_of_commands(const char *text) {
    expect(text, ENDED "\"executed\"} ", 3, true);
    expect(text, ENDED "\"failed\"} ", 2, true);
    expect(text, ENDED "\"expired\"} ", 1, true);
    expect(text, ENDED "\"canceled\"} ", 1, true);
    expect(text, "trackbus_commands_waiting" IT, 1, true);
    expect(text, "trackbus_devices" IT, 3, true); // a command alone makes nobody known
    expect(text, "trackbus_devices_connected" IT, 3, true);
}

// While the broker is away, and once it is back. A report waited when it was killed.
static void expect_of_broker(const char *text, bool up) {
    cr_assert(strstr(text, "trackbus_build_info{instance=\"trackbus\",version=\"0") != NULL, "%s", text);
    expect(text, "trackbus_broker_up" IT, up, true);
    expect(text, "trackbus_broker_connections_total" IT, up ? 2 : 1, true);
    expect(text, "trackbus_broker_reconnections_total" IT, up, true);
    expect(text, "trackbus_publishes_total" IT, 30, false);
    expect(text, "trackbus_resident_memory_bytes" IT, 1e6, false);
    expect(text, "trackbus_start_time_seconds" IT, 1.7e9, false);
    expect(text, "trackbus_store_full" IT, 0, true);
    expect(text, "trackbus_store_bytes" IT, 4096, false);
    if (up)
        return;
    expect(text, "trackbus_outbox_messages" IT, 1, false);
    expect(text, "trackbus_outbox_oldest_seconds" IT, 0.001, false);
}

// The numbers are told when the link goes or comes, so nothing here waits for the ten seconds to pass.
Test(web_metrics, move_for_the_reason_that_their_help_gives) {
    int port;
    struct rig *rig = up(&port);
    int van = rig_tcp(rig), car = rig_tcp(rig);
    play(rig, van, car);
    command(rig, van);
    rig_broker_freeze(rig);
    say(van, report(VAN, 2));
    rig_expect_counters(rig, " 3 messages, 4 answers");
    rig_broker_kill(rig);
    http_expect_soon(port, "GET /metrics", "", "trackbus_broker_up" IT "0");
    const char *text = http_ask(port, "GET /metrics", "", "");
    expect_of_devices(text);
    expect_of_commands(text);
    expect_of_broker(text, false);
    rig_broker_start(rig, NULL);
    http_expect_soon(port, "GET /metrics", "", "trackbus_broker_up" IT "1");
    expect_of_broker(http_ask(port, "GET /metrics", "", ""), true);
    rig_finish(rig);
}

// A broker that takes no message of VAN.
static struct rig *up_with_little(int *port) {
    char extra[256];
    struct rig *rig = rig_new();
    snprintf(extra, sizeof extra, "acl_file %s/acl\n" RIG_BROKER_LIMITS, rig->directory);
    rig_write_file(rig, "acl",
                   "topic read #\n" // of the gateway, which has no name
                   "topic write trackbus/state/#\n"
                   "topic write trackbus/log/#\n"
                   "topic write trackbus/message/gw/devices/" CAR "\n"
                   "user " RIG_USER "\n"
                   "topic read #\n");
    rig_broker_start(rig, extra);
    rig_client_start(rig);
    rig_gateway_start(rig, "{'web':{'listen':'127.0.0.1:0'},'messages':['devices'],'telemetry':'off',"
                           "'store':{'max_bytes':1048576}}");
    *port = http_page_port(rig);
    return rig;
}

Test(web_metrics, of_what_the_broker_refuses_and_of_a_full_store) {
    int port;
    struct rig *rig = up_with_little(&port);
    int van = rig_tcp(rig), car = rig_tcp(rig);
    device_send(van, report(VAN, 1));
    rig_expect(rig, INSTANCE, "{'set_aside':1}");
    rig_broker_freeze(rig);
    for (int i = 0; i < 4000; i++)
        device_send(car, report(CAR, i));
    rig_expect_log(rig, "the outbox is full");
    rig_broker_kill(rig);
    http_expect_soon(port, "GET /metrics", "", "trackbus_broker_up" IT "0");
    const char *text = http_ask(port, "GET /metrics", "", "");
    expect(text, "trackbus_set_aside_messages" IT, 1, true);
    expect(text, "trackbus_store_full" IT, 1, true);
    expect(text, "trackbus_outbox_messages" IT, 1000, false);
    rig_finish(rig);
}
