// What is retained about channels and devices, and what becomes of it when the gateway or the broker stops.
// Telemetry has a file of its own; the instance is in test_broker.c.
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/e2e/state.h"

TestSuite(state, .fini = rig_clean);
TestSuite(state_3_1_1, .fini = rig_clean);

#define CHANNEL        "state/gw/channels/1"
#define CHANNEL_KEYS   "connections id name protocol_id protocol_name tcp udp"
#define DEVICE_KEYS    "device_type_id id ident name protocol_id"
#define LISTED         "'devices':[{'ident':'" VAN "','id':42,'name':'Van 1','type_id':825}]"
#define VAN_CONNECTED  VAN_STATE "/connected"
#define CAR_CONNECTED  CAR_STATE "/connected"
#define THIRD          "866425031379169"
#define SECOND_GATEWAY "{'mqtt':{'client_id':'second'},'commands':{'intake':false}}"

static void expect_connections(struct rig *rig, int count) {
    char subset[48];
    snprintf(subset, sizeof subset, "{'connections':%d}", count);
    json_decref(rig_expect_standing_json(rig, CHANNEL, subset));
}

// Once this returns, the gateway has published all that it had to say about VAN.
static void pass_fence(struct rig *rig) {
    close(wake(rig, THIRD));
    rig_expect(rig, "state/gw/devices/" THIRD "/connected", "true");
    rig_expect(rig, "state/gw/devices/" THIRD "/connected", "false");
}

// --- channels ---

STORY(state, of_a_channel) {
    struct rig *rig = rig_up(NULL);
    char addresses[96];
    snprintf(addresses, sizeof addresses, "{'tcp':'127.0.0.1:%d','udp':'127.0.0.1:%d'}",
             rig_tcp_port(rig, "mictrack"), rig_udp_port(rig, "mictrack"));
    json_t *state = rig_expect_standing_json(rig, CHANNEL, addresses);
    expect_keys(state, CHANNEL_KEYS);
    json_t *expected =
        rig_json("{'id':1,'name':'mictrack','protocol_id':1,'protocol_name':'mictrack','connections':0}");
    cr_assert(rig_json_contains(state, expected));
    json_decref(expected);
    json_decref(state);
    rig_finish(rig);
}

STORY(state, of_channels_with_one_transport) {
    struct rig *rig = rig_up("{'channels':[{'id':1,'name':'one','protocol':'mictrack','tcp':'127.0.0.1:0'},"
                             "{'id':7,'name':'Größe \\\"7\\\"','protocol':'magicyo','udp':'127.0.0.1:0'}]}");
    char addresses[96];
    snprintf(addresses, sizeof addresses, "{'id':1,'name':'one','tcp':'127.0.0.1:%d','udp':null}",
             rig_tcp_port(rig, "one"));
    json_t *one = rig_expect_standing_json(rig, CHANNEL, addresses);
    expect_keys(one, CHANNEL_KEYS);
    json_t *seven = rig_expect_standing_json(
        rig, "state/gw/channels/7",
        "{'id':7,'name':'Größe \\\"7\\\"','protocol_id':2,'protocol_name':'magicyo','tcp':null}");
    expect_keys(seven, CHANNEL_KEYS);
    const char *udp = json_string_value(member(seven, "udp"));
    cr_assert(udp != NULL && strncmp(udp, "127.0.0.1:", 10) == 0 && atoi(udp + 10) > 0, "udp is %s", udp);
    json_decref(one);
    json_decref(seven);
    rig_finish(rig);
}

STORY(state, of_a_channel_over_ipv6) {
    if (!rig_has_ipv6())
        cr_skip_test("no IPv6 here");
    struct rig *rig =
        rig_up("{'channels':[{'id':1,'name':'mictrack','protocol':'mictrack','tcp':'[::1]:0'}]}");
    char address[64];
    snprintf(address, sizeof address, "{'tcp':'[::1]:%d'}", rig_tcp_port(rig, "mictrack"));
    json_decref(rig_expect_standing_json(rig, CHANNEL, address));
    rig_finish(rig);
}

STORY(state, of_a_channel_that_cannot_listen) {
    struct rig *rig = rig_up(NULL), *second = rig_beside(rig);
    char changes[512];
    snprintf(changes, sizeof changes,
             "{'mqtt':{'client_id':'second'},'commands':{'intake':false},'channels':["
             "{'id':3,'name':'taken','protocol':'mictrack','tcp':'127.0.0.1:%d','udp':'127.0.0.1:0'}]}",
             rig_tcp_port(rig, "mictrack"));
    rig_gateway_start(second, changes);
    json_t *state = rig_expect_standing_json(rig, "state/gw/channels/3", "{'tcp':null}");
    cr_assert(json_is_string(member(state, "udp")));
    json_decref(state);
    rig_finish(rig);
}

STORY(state, of_a_channel_counts_connections) {
    struct rig *rig = rig_up(NULL);
    expect_connections(rig, 0);
    int silent = rig_tcp(rig);
    expect_connections(rig, 1);
    int van = wake(rig, VAN);
    expect_connections(rig, 2);
    close(silent);
    expect_connections(rig, 1);
    int again = wake(rig, VAN);
    device_expect_closed(van);
    expect_connections(rig, 1);
    close(again);
    expect_connections(rig, 0);
    rig_finish(rig);
}

STORY(state, of_a_channel_does_not_count_who_was_turned_away) {
    struct rig *rig = rig_up("{'limits':{'connections':1}}");
    int first = rig_tcp(rig);
    expect_connections(rig, 1);
    device_expect_closed(rig_tcp(rig));
    close(first);
    expect_connections(rig, 0);
    close(wake(rig, VAN));
    expect_connections(rig, 0);
    rig_finish(rig);
}

STORY(state, of_a_channel_that_was_told_to_stop) {
    struct rig *rig = rig_up(NULL);
    wake(rig, VAN);
    expect_connections(rig, 1);
    stop_and_hear(rig);
    expect_connections(rig, 0);
    rig->finished = true;
}

STORY(state, of_a_channel_after_a_crash) {
    struct rig *rig = rig_up(NULL);
    wake(rig, VAN);
    expect_connections(rig, 1);
    kill_and_hear(rig);
    rig_gateway_start(rig, NULL);
    char address[64];
    snprintf(address, sizeof address, "{'tcp':'127.0.0.1:%d','connections':0}",
             rig_tcp_port(rig, "mictrack"));
    json_decref(rig_expect_standing_json(rig, CHANNEL, address));
    rig_finish(rig);
}

// --- who a device is ---

STORY(state, of_a_device_in_the_registry) {
    struct rig *rig = rig_up("{" LISTED "}");
    int device = rig_tcp(rig);
    say(rig, device, VAN, "R0;10+190109091803+22.63827+114.02922+2.14+69+2+3744+113");
    json_t *state = rig_expect_standing_json(rig, "state/gw/devices/42", "{'protocol_id':1}");
    expect_keys(state, DEVICE_KEYS);
    json_t *expected = rig_json("{'id':42,'name':'Van 1','ident':'" VAN "','device_type_id':825}");
    cr_assert(rig_json_contains(state, expected));
    json_decref(expected);
    json_decref(state);
    rig_expect_standing(rig, "state/gw/devices/42/connected", "true");
    cr_assert(rig_count_retained(rig, VAN_STATE "/#") == 0, "there is state under the ident, too");
    rig_finish(rig);
}

STORY(state, of_a_device_outside_the_registry) {
    struct rig *rig = rig_up(NULL);
    wake(rig, VAN);
    json_t *state = rig_expect_standing_json(rig, VAN_STATE,
                                             "{'id':" VAN ",'name':'" VAN "','ident':'" VAN
                                             "','device_type_id':0,'protocol_id':1}");
    expect_keys(state, DEVICE_KEYS);
    json_decref(state);
    rig_finish(rig);
}

STORY(state, of_a_device_that_never_came) {
    struct rig *rig = rig_up("{" LISTED "}");
    json_decref(rig_expect_standing_json(rig, "state/gw/devices/42",
                                         "{'id':42,'name':'Van 1','ident':'" VAN "','device_type_id':825}"));
    rig_expect_standing(rig, "state/gw/devices/42/connected", "false");
    rig_finish(rig);
}

STORY(state, of_a_device_with_a_name_that_json_has_to_escape) {
    struct rig *rig =
        rig_up("{'devices':[{'ident':'" VAN "','id':42,'name':'Van \\\"1\\\" \\\\ Köln\\n東京 <b>'}]}");
    wake(rig, VAN);
    const struct rig_message *message = rig_message_at(rig, "message/gw/devices/42", 0);
    json_t *json = json_of(message);
    const char *name = "Van \"1\" \\ Köln\n東京 <b>";
    cr_assert_str_eq(json_string_value(member(json, "device.name")), name);
    json_decref(json);
    json = rig_expect_standing_json(rig, "state/gw/devices/42", "{'id':42}");
    cr_assert_str_eq(json_string_value(member(json, "name")), name);
    json_decref(json);
    rig_finish(rig);
}

STORY(state, under_another_prefix) {
    struct rig *rig = rig_with_broker(NULL);
    rig->topic_prefix = "flespi";
    rig_gateway_start(rig, "{'mqtt':{'topic_prefix':'flespi'}}");
    rig_expect_state(rig); // so that all that follows is published at once
    close(wake(rig, VAN));
    rig_expect(rig, "/flespi/" VAN_CONNECTED, "false");
    static const char *const topics[] = {INSTANCE, CHANNEL, VAN_STATE, VAN_STATE "/telemetry/battery.voltage",
                                         VAN_STATE "/telemetry/position"};
    for (size_t i = 0; i < sizeof topics / sizeof topics[0]; i++)
        cr_assert(rig_count_retained(rig, topics[i]) == 1, "nothing on flespi/%s", topics[i]);
    cr_assert(rig_count_retained(rig, "/trackbus/#") == 0);
    rig_finish(rig);
}

// --- who has none ---

static void expect_no_device_topics(const char *unknown) {
    char changes[160];
    snprintf(changes, sizeof changes, "{'unknown_devices':'%s'," LISTED "}", unknown);
    struct rig *rig = rig_up(changes);
    int stranger = rig_tcp(rig), datagrams = rig_udp(rig), van = rig_tcp(rig);
    device_send(stranger, report(CAR, 1));
    device_send(datagrams, report(THIRD, 1));
    say(rig, van, VAN, "R0;10+190109091803+22.63827+114.02922+2.14+69+2+3744+113");
    rig_expect_standing(rig, "state/gw/devices/42/connected", "true");
    stop_and_hear(rig);
    static const char *const filters[] = {"state/gw/devices/%s/#", "log/gw/devices/%s/#",
                                          "message/gw/devices/%s"};
    for (size_t i = 0; i < 6; i++) {
        char filter[96];
        snprintf(filter, sizeof filter, filters[i / 2], i % 2 == 0 ? CAR : THIRD);
        expect_none(rig, filter);
    }
    rig->finished = true;
}

STORY(state, of_no_device_that_is_for_the_channel_only) {
    expect_no_device_topics("channel");
}

STORY(state, of_no_device_that_is_rejected) {
    expect_no_device_topics("reject");
}

// --- connected or not ---

STORY(state, connected_over_tcp) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    expect_connections(rig, 1);
    expect_none(rig, "state/gw/devices/#");
    talk(rig, device, VAN);
    rig_expect_standing(rig, VAN_CONNECTED, "true");
    close(device);
    rig_expect_standing(rig, VAN_CONNECTED, "false");
    rig_finish(rig);
}

STORY(state, connected_over_udp_until_it_is_silent) {
    struct rig *rig = rig_up("{'limits':{'idle_timeout':1}}");
    talk(rig, rig_udp(rig), VAN);
    rig_expect(rig, VAN_CONNECTED, "true");
    rig_expect(rig, VAN_CONNECTED, "false");
    rig_expect_standing(rig, VAN_CONNECTED, "false");
    rig_finish(rig);
}

STORY(state, connected_over_udp_when_the_connection_ends) {
    struct rig *rig = rig_up(NULL);
    int connection = wake(rig, VAN), datagrams = wake_udp(rig, VAN);
    close(connection);
    rig_expect_log(rig, "connection 1: closed by the device");
    talk(rig, datagrams, VAN);
    pass_fence(rig);
    rig_expect_standing(rig, VAN_CONNECTED, "true");
    rig_finish(rig);
}

STORY(state, connected_when_it_connected_again) {
    struct rig *rig = rig_up(NULL);
    for (int i = 0, before = wake(rig, VAN); i < 5; i++) {
        int again = wake(rig, VAN);
        device_expect_closed(before);
        before = again;
    }
    pass_fence(rig);
    rig_expect_standing(rig, VAN_CONNECTED, "true");
    rig_finish(rig);
}

STORY(state, connected_ends_when_the_gateway_is_told_to_stop) {
    struct rig *rig = rig_up("{" LISTED "}");
    wake(rig, CAR);
    say(rig, rig_udp(rig), VAN, "R0;10+190109091803+22.63827+114.02922+2.14+69+2+3744+113");
    rig_expect_standing(rig, CAR_CONNECTED, "true");
    rig_expect_standing(rig, "state/gw/devices/42/connected", "true");
    stop_and_hear(rig);
    rig_expect_standing(rig, CAR_CONNECTED, "false");
    rig_expect_standing(rig, "state/gw/devices/42/connected", "false");
    rig->finished = true;
}

// --- after a crash ---

#define CAR_LISTED "{'devices':[{'ident':'" CAR "','id':5}]}"

static struct rig *crashed_with_van_and_car(void) {
    struct rig *rig = rig_up(CAR_LISTED);
    wake(rig, VAN);
    device_send(rig_tcp(rig), report(CAR, 1));
    rig_expect_standing(rig, VAN_CONNECTED, "true");
    rig_expect_standing(rig, "state/gw/devices/5/connected", "true");
    kill_and_hear(rig);
    return rig;
}

STORY(state, of_devices_that_were_connected_when_the_gateway_was_killed) {
    struct rig *rig = crashed_with_van_and_car();
    rig_gateway_start(rig, CAR_LISTED);
    rig_expect_standing(rig, VAN_CONNECTED, "false");
    rig_expect_standing(rig, "state/gw/devices/5/connected", "false");
    wake(rig, VAN);
    rig_expect_standing(rig, VAN_CONNECTED, "true");
    rig_finish(rig);
}

// Before the gateway has heard what the broker retains.
STORY(state, of_a_device_that_is_back_at_once_after_a_crash) {
    struct rig *rig = crashed_with_van_and_car();
    rig_broker_freeze(rig);
    rig_gateway_start(rig, CAR_LISTED);
    device_send(rig_tcp(rig), report(VAN, 2));
    rig_expect_log(rig, "device " VAN ": identified");
    rig_broker_thaw(rig);
    rig_expect_standing(rig, "state/gw/devices/5/connected", "false");
    pass_fence(rig);
    rig_expect_standing(rig, VAN_CONNECTED, "true");
    rig_finish(rig);
}

// --- two gateways ---

static struct rig *two_up(void) {
    struct rig *rig = rig_up(NULL), *second = rig_beside(rig);
    rig_gateway_start(second, SECOND_GATEWAY);
    rig_expect_log(second, ": connected");
    return rig;
}

STORY(state, connected_when_it_moved_to_another_gateway) {
    struct rig *rig = two_up();
    int before = wake(rig, VAN);
    for (int i = 0; i < 4; i++) {
        int device = wake(i % 2 == 0 ? rig->beside : rig, VAN);
        device_expect_closed(before);
        before = device;
    }
    pass_fence(rig);
    pass_fence(rig->beside);
    rig_expect_standing(rig, VAN_CONNECTED, "true");
    close(before);
    rig_expect_standing(rig, VAN_CONNECTED, "false");
    rig_finish(rig);
}

STORY(state, of_devices_elsewhere_when_a_gateway_was_killed) {
    struct rig *rig = two_up();
    wake(rig, VAN);
    wake(rig->beside, CAR);
    rig_expect_standing(rig, VAN_CONNECTED, "true");
    rig_expect_standing(rig, CAR_CONNECTED, "true");
    kill_and_hear(rig);
    rig_gateway_start(rig, NULL);
    rig_expect_standing(rig, VAN_CONNECTED, "false");
    pass_fence(rig);
    pass_fence(rig->beside);
    rig_expect_standing(rig, CAR_CONNECTED, "true");
    rig_finish(rig);
}

// --- a broker that has lost all ---

// All that is retained, but for the number that grows, and those that are counted all the time.
static json_t *retained_state(struct rig *rig) {
    json_t *all = rig_retained(rig, "state/#");
    json_object_del(all, "trackbus/" INSTANCE "/generation");
    json_object_del(all, "trackbus/" INSTANCE "/metrics");
    return all;
}

struct comparison {
    struct rig *rig;
    json_t *before, *after;
};

static bool is_restored(void *context) {
    struct comparison *comparison = context;
    json_decref(comparison->after);
    comparison->after = retained_state(comparison->rig);
    return json_equal(comparison->before, comparison->after);
}

// The first topic that is not as it was.
static const char *first_difference(const struct comparison *comparison) {
    const char *topic;
    json_t *value;
    json_object_foreach(
        comparison->before, topic,
        value) if (!json_equal(value, json_object_get(comparison->after, topic))) return topic;
    json_object_foreach(comparison->after, topic,
                        value) if (json_object_get(comparison->before, topic) == NULL) return topic;
    return "";
}

static void lose_all(struct rig *rig) {
    rig_broker_kill(rig);
    rig_broker_wipe(rig);
}

static void expect_restored(struct rig *rig, json_t *before) {
    struct comparison comparison = {.rig = rig, .before = before};
    bool same = rig_wait(is_restored, &comparison, 2 * RIG_DEADLINE);
    const char *topic = first_difference(&comparison);
    const char *was = json_string_value(json_object_get(before, topic));
    const char *is = json_string_value(json_object_get(comparison.after, topic));
    cr_assert(same, "%s was %s, is %s", topic, was != NULL ? was : "not there",
              is != NULL ? is : "not there");
    json_decref(comparison.after);
    json_decref(before);
}

// One device is connected, one was, one is only in the registry; some of their values are texts and lists.
static struct rig *fleet_up(void) {
    struct rig *rig =
        rig_up("{'devices':[{'ident':'" CAR "','id':5,'name':'Car'},{'ident':'" THIRD "','id':6}]}");
    int van = rig_tcp(rig), car = rig_tcp(rig);
    say(rig, van, VAN, "R0;10+190109091803+22.63827+114.02922+2.14+69+2+3744+1");
    say(rig, van, VAN, "R1;190109091903+6a:db:54:5a:79:6d,-91,00:9a:cd:a2:e6:21,-94+3+3831+2");
    say(rig, car, CAR, "RC;MT825_MICTRACK_B1.07V3.3_20200910+0+120+0+720+0+32+1");
    say(rig, car, CAR, "R0;9+190109091803+-22.5+-14.25+0+0+5+3900+2");
    close(car);
    rig_expect_standing(rig, "state/gw/devices/5/connected", "false");
    rig_expect_standing(rig, "state/gw/devices/6/connected", "false");
    rig_expect_standing(rig, VAN_STATE "/telemetry/battery.voltage", "3.831");
    rig_expect_standing(rig, "state/gw/devices/5/telemetry/battery.voltage", "3.9");
    rig_expect(rig, "state/gw/instances/trackbus/queue", NULL);
    return rig;
}

STORY(state, stands_again_after_a_broker_has_lost_all) {
    struct rig *rig = fleet_up();
    expect_connections(rig, 1);
    json_t *before = retained_state(rig);
    cr_assert(json_object_size(before) > 30, "only %zu topics", json_object_size(before));
    lose_all(rig);
    rig_broker_start(rig, NULL);
    expect_restored(rig, before);
    rig_finish(rig);
}

STORY(state, stands_again_each_time) {
    struct rig *rig = fleet_up();
    expect_connections(rig, 1);
    for (int i = 0; i < 3; i++) {
        json_t *before = retained_state(rig);
        lose_all(rig);
        rig_broker_start(rig, NULL);
        expect_restored(rig, before);
    }
    rig_finish(rig);
}

// It goes soon after the first connection to it, when the gateway has not heard all of it yet.
STORY(state, follows_who_comes_and_goes_while_the_broker_is_away) {
    struct rig *rig = rig_up(NULL);
    int van = wake(rig, VAN);
    lose_all(rig);
    close(van);
    rig_expect_log(rig, "connection 1: closed by the device");
    int car = rig_tcp(rig);
    device_send(car, report(CAR, 1));
    rig_expect_log(rig, "device " CAR ": identified");
    rig_broker_start(rig, NULL);
    rig_expect_standing(rig, VAN_CONNECTED, "false");
    rig_expect_standing(rig, CAR_CONNECTED, "true");
    rig_expect_standing(rig, CAR_STATE "/telemetry/position.satellites", "10");
    json_decref(rig_expect_standing_json(rig, VAN_STATE, "{'ident':'" VAN "'}"));
    expect_connections(rig, 1);
    close(car);
    rig_expect_standing(rig, CAR_CONNECTED, "false");
    expect_connections(rig, 0);
    rig_finish(rig);
}

// The broker has forgotten nothing: only what changed meanwhile is published.
STORY(state, follows_who_goes_while_a_broker_is_away_that_keeps_all) {
    struct rig *rig = rig_with_broker(RIG_BROKER_KEEPS);
    rig_gateway_start(rig, NULL);
    int van = wake(rig, VAN);
    wake(rig, CAR);
    rig_expect_standing(rig, VAN_CONNECTED, "true");
    rig_expect_standing(rig, CAR_CONNECTED, "true");
    rig_broker_kill(rig);
    close(van);
    rig_expect_log(rig, "connection 1: closed by the device");
    rig_broker_start(rig, RIG_BROKER_KEEPS);
    rig_expect_standing(rig, VAN_CONNECTED, "false");
    rig_expect_standing(rig, CAR_CONNECTED, "true");
    expect_connections(rig, 1);
    rig_finish(rig);
}

// The gateway itself comes back to a broker that knows nothing.
STORY(state, of_the_registry_at_a_new_broker_and_a_new_start) {
    struct rig *rig = rig_up("{" LISTED "}");
    rig_expect_standing(rig, "state/gw/devices/42/connected", "false");
    rig_gateway_stop(rig);
    lose_all(rig);
    rig_broker_start(rig, NULL);
    rig_gateway_start(rig, "{" LISTED "}");
    rig_expect_standing(rig, "state/gw/devices/42/connected", "false");
    json_decref(rig_expect_standing_json(rig, "state/gw/devices/42", "{'name':'Van 1'}"));
    rig_finish(rig);
}

// The store says that the device is connected, but it is gone when the gateway and the broker are back.
STORY(state, connected_of_an_earlier_run_is_not_the_last_word) {
    struct rig *rig = rig_up(
        "{'channels':[{'id':1,'name':'mictrack','protocol':'mictrack','udp':'127.0.0.1:0','udp_ack':'ok'}]}");
    int device = rig_udp(rig);
    rig_broker_freeze(rig);
    device_send(device, report(VAN, 1));
    device_expect_datagram(device, "ok"); // all of it is on disk
    rig_gateway_kill(rig);
    rig_broker_kill(rig);
    rig_broker_start(rig, NULL);
    rig_gateway_start(rig, NULL);
    rig_expect(rig, VAN_CONNECTED, "true");
    rig_expect_standing(rig, VAN_CONNECTED, "false");
    rig_finish(rig);
}
