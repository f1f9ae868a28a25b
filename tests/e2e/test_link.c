// The link to brokers that are old, full, moved, strict or taken by somebody else, end to end.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/e2e/rig.h"
#include "tests/e2e/scripted_broker.h"

TestSuite(link, .fini = rig_clean, .timeout = 120);

#define GATEWAY "trackbus"

// The gateway on a broker that follows the rule.
struct set {
    struct rig *rig;
    struct scripted_broker *broker;
    int rule;
};

static struct set set_with(struct scripted_rule rule) {
    struct set set = {.rig = rig_new()};
    set.broker = scripted_broker_start(set.rig);
    set.rule = scripted_broker_set(set.broker, rule);
    return set;
}

static struct set up_with(struct scripted_rule rule, const char *changes) {
    struct set set = set_with(rule);
    rig_gateway_start(set.rig, changes);
    return set;
}

static void send_report(struct rig *rig, int seqnum) {
    int device = rig_tcp(rig);
    device_send(device, report(VAN, seqnum));
}

static void expect_report(struct set *set, int seqnum) {
    char part[32];
    snprintf(part, sizeof part, "\"message.seqnum\":%d", seqnum);
    scripted_expect_publishes(set->broker, "trackbus/message/gw/devices/+", part, 1);
}

static void report_arrives(struct set *set, int seqnum) {
    send_report(set->rig, seqnum);
    expect_report(set, seqnum);
}

static const struct scripted_connect *last_connect(struct set *set) {
    size_t count = scripted_broker_connects(set->broker, GATEWAY);
    return scripted_broker_connect_at(set->broker, GATEWAY, count - 1);
}

// --- brokers that know only 3.1.1 ---

static void serves_an_old_broker(struct scripted_rule rule) {
    struct set set = up_with(rule, NULL);
    rig_expect_log(set.rig, "knows only MQTT 3.1.1");
    report_arrives(&set, 1);
    scripted_expect_hits(set.broker, set.rule, 1);
    const struct scripted_connect *last = last_connect(&set);
    cr_assert_eq(last->version, 4);
    cr_assert(!last->clean_start);
    cr_assert_str_eq(last->will_topic, "trackbus/state/gw/instances/trackbus");
    scripted_broker_disconnect(set.broker, GATEWAY, 0);
    report_arrives(&set, 2);
    cr_assert_eq(last_connect(&set)->version, 4);
    cr_assert_eq(rig_log_count(set.rig, "knows only MQTT 3.1.1"), 1);
    scripted_broker_finish(set.broker);
}

Test(link, old_broker_that_answers_in_its_own_format) {
    serves_an_old_broker((struct scripted_rule){.version = 5, .answer = SCRIPTED_OLD});
}

Test(link, old_broker_that_refuses_version_5) {
    serves_an_old_broker((struct scripted_rule){.version = 5, .reason = 0x84});
}

Test(link, old_broker_that_closes_without_an_answer) {
    serves_an_old_broker((struct scripted_rule){.version = 5, .answer = SCRIPTED_CLOSES});
}

Test(link, broker_that_was_away_behind_a_proxy_is_spoken_to_in_version_5) {
    struct set set = up_with((struct scripted_rule){.answer = SCRIPTED_CLOSES, .times = 2}, NULL);
    report_arrives(&set, 1);
    cr_assert_eq(last_connect(&set)->version, 5);
    rig_expect_log(set.rig, "closed the connection without an answer to CONNECT");
    scripted_broker_finish(set.broker);
}

Test(link, takes_only_the_version_that_is_configured) {
    struct set set =
        up_with((struct scripted_rule){.version = 5, .reason = 0x84}, "{'mqtt': {'version': '5'}}");
    scripted_expect_connects(set.broker, GATEWAY, 3);
    for (size_t i = 0; i < 3; i++)
        cr_assert_eq(scripted_broker_connect_at(set.broker, GATEWAY, i)->version, 5);
    rig_expect_log(set.rig, "it does not know MQTT 5");
    scripted_broker_finish(set.broker);
}

Test(link, speaks_3_1_1_when_that_is_configured) {
    struct set set =
        up_with((struct scripted_rule){.version = 5, .reason = 0x84}, "{'mqtt': {'version': '3.1.1'}}");
    report_arrives(&set, 1);
    cr_assert_eq(scripted_broker_connect_at(set.broker, GATEWAY, 0)->version, 4);
    scripted_broker_finish(set.broker);
}

Test(link, retained_command_is_not_run_again_with_3_1_1) {
    struct set set = set_with((struct scripted_rule){.version = 5, .reason = 0x84});
    scripted_broker_publish(set.broker, "trackbus/command/gw/devices/lorry", "left behind", true);
    rig_gateway_start(set.rig, NULL);
    report_arrives(&set, 1);
    scripted_broker_publish(set.broker, "trackbus/command/gw/devices/van", "live", false);
    rig_expect_log(set.rig, "devices/van: command rejected"); // it comes behind what is retained
    cr_assert_eq(rig_log_count(set.rig, "command rejected"), 1);
    scripted_broker_finish(set.broker);
}

// --- what CONNECT says ---

Test(link, connect_says_how_large_a_packet_may_be) {
    struct set set = up_with((struct scripted_rule){.times = 1}, NULL);
    const struct scripted_connect *connect = scripted_expect_connects(set.broker, GATEWAY, 1);
    cr_assert_eq(connect->maximum_packet_size, 1U << 20);
    scripted_broker_finish(set.broker);
}

// --- limits in CONNACK ---

static struct set up_with_limits(struct scripted_limits limits) {
    return up_with((struct scripted_rule){.limits = limits}, NULL);
}

Test(link, publishes_with_the_highest_qos_that_the_broker_takes) {
    struct set set = up_with_limits((struct scripted_limits){.only_qos_0 = true});
    report_arrives(&set, 1);
    cr_assert_eq(scripted_broker_publish_at(set.broker, "trackbus/message/gw/devices/+", NULL, 0)->qos, 0);
    report_arrives(&set, 2);
    rig_expect_log(set.rig, "takes QoS 0 only");
    scripted_broker_finish(set.broker);
}

// The library says that a message is on its way before the call that publishes it has returned. limits are the
// gateway's; the rig's client may do as it likes.
static struct set up_with_qos_0(struct scripted_limits limits, const char *changes) {
    limits.only_qos_0 = true;
    struct set set = set_with((struct scripted_rule){.client = GATEWAY, .limits = limits});
    rig_client_start(set.rig);
    rig_gateway_start(set.rig, changes);
    return set;
}

Test(link, result_goes_out_with_qos_0) {
    struct set set = up_with_qos_0((struct scripted_limits){0}, NULL);
    int device = rig_tcp(set.rig);
    device_send(device, report(VAN, 1));
    expect_report(&set, 1);
    for (int i = 0; i < 3; i++) {
        rig_request(set.rig, "command/gw/devices/" VAN, "{\"name\":\"reboot\"}", "answers/17", NULL);
        device_expect(device, "reboot,0#");
        device_send(device, "reboot=Success!");
        scripted_expect_publishes(set.broker, "answers/17", "\"executed\":true", (size_t)i + 1);
    }
    rig_expect_counters(set.rig, "outbox: 0 messages");
    scripted_broker_finish(set.broker);
}

Test(link, instance_says_with_qos_0_what_is_set_aside) {
    struct set set =
        up_with_qos_0((struct scripted_limits){.maximum_packet_size = 1000}, "{'telemetry':'off'}");
    int device = rig_tcp(set.rig);
    char points[1300] = "", text[1400];
    for (int i = 0; i < 40; i++)
        sprintf(points + strlen(points), "%s6a:db:54:5a:79:%02x,-%d", i > 0 ? "," : "", i, 50 + i);
    snprintf(text, sizeof text, "MT;7;" VAN ";R1;261125120100+%s+3+3831+2\r\n", points);
    device_send(device, text);
    scripted_expect_publishes(set.broker, "trackbus/" INSTANCE, "\"set_aside\":2", 1); // both topics have it
    report_arrives(&set, 2);
    scripted_broker_finish(set.broker);
}

Test(link, publishes_unretained_where_nothing_is_retained) {
    struct set set = up_with_limits((struct scripted_limits){.no_retain = true});
    report_arrives(&set, 1);
    rig_expect_log(set.rig, "it retains nothing");
    scripted_broker_finish(set.broker);
}

Test(link, last_will_is_made_simpler_for_a_broker_that_refuses_it) {
    struct set set = up_with((struct scripted_rule){.reason = 0x9A, .times = 1}, NULL);
    report_arrives(&set, 1);
    cr_assert(!last_connect(&set)->will_retain);
    scripted_broker_finish(set.broker);
}

Test(link, last_will_goes_with_qos_0_to_a_broker_that_takes_no_other) {
    struct set set = up_with((struct scripted_rule){.reason = 0x9B, .times = 1}, NULL);
    report_arrives(&set, 1);
    cr_assert_eq(last_connect(&set)->will_qos, 0);
    scripted_broker_finish(set.broker);
}

Test(link, message_larger_than_the_broker_takes_is_not_sent) {
    struct set set = up_with_limits((struct scripted_limits){.maximum_packet_size = 400});
    send_report(set.rig, 1);
    rig_expect_log(set.rig, "too large");
    scripted_broker_finish(set.broker);
}

Test(link, has_no_more_unacknowledged_than_the_broker_takes) {
    struct set set = up_with_limits((struct scripted_limits){.receive_maximum = 3});
    int device = rig_tcp(set.rig);
    for (int i = 1; i <= 50; i++)
        device_send(device, report(VAN, i));
    expect_report(&set, 50);
    scripted_broker_finish(set.broker); // which has counted them
}

Test(link, pings_as_often_as_the_broker_asks) {
    struct set set = up_with_limits((struct scripted_limits){.server_keep_alive = 2});
    report_arrives(&set, 1);
    size_t before = scripted_broker_connects(set.broker, GATEWAY);
    rig_wait_until(rig_clock() + 6000);
    report_arrives(&set, 2);
    cr_assert_eq(scripted_broker_connects(set.broker, GATEWAY), before, "it was cut");
    scripted_broker_finish(set.broker);
}

Test(link, works_on_without_wildcards) {
    struct set set = up_with_limits((struct scripted_limits){.no_wildcards = true});
    report_arrives(&set, 1);
    rig_expect_log(set.rig, "takes no wildcards");
    scripted_expect_publishes(set.broker, "trackbus/state/gw/instances/trackbus", "\"commands\":false", 1);
    scripted_broker_finish(set.broker);
}

// It uses none.
Test(link, does_not_mind_a_broker_without_subscription_identifiers) {
    struct set set = up_with_limits((struct scripted_limits){.no_subscription_ids = true});
    report_arrives(&set, 1);
    rig_expect_log(set.rig, ": connected");
    cr_assert(!rig_log_has(set.rig, "the broker has limits"));
    scripted_broker_finish(set.broker);
}

// --- rivals and rates ---

Test(link, names_another_client_with_the_same_id) {
    struct set set = up_with((struct scripted_rule){.times = 1}, NULL);
    report_arrives(&set, 1);
    scripted_broker_disconnect(set.broker, GATEWAY, 0x8E);
    rig_expect_log(set.rig, "another client uses the id 'trackbus'");
    report_arrives(&set, 2);
    scripted_broker_finish(set.broker);
}

Test(link, connections_that_do_not_last_are_made_more_and_more_slowly) {
    int64_t begun = rig_clock();
    struct set set = up_with((struct scripted_rule){.times = 1}, NULL);
    for (size_t i = 1; i <= 4; i++) {
        scripted_expect_connects(set.broker, GATEWAY, i);
        scripted_expect_connected(set.broker, GATEWAY);
        report_arrives(&set, (int)i);
        scripted_broker_disconnect(set.broker, GATEWAY, 0);
    }
    scripted_expect_connects(set.broker, GATEWAY, 5);
    cr_assert_geq(rig_clock() - begun, 500 + 1000 + 2000 + 2500);
    scripted_broker_finish(set.broker);
}

Test(link, sends_more_slowly_after_a_complaint) {
    struct set set = up_with(
        (struct scripted_rule){
            .on = SCRIPTED_PUBLISH, .topic = "trackbus/message/#", .rate = 200, .disconnect = 0x96},
        "{'messages': ['devices'], 'telemetry': 'off'}");
    int device = rig_tcp(set.rig);
    for (int i = 0; i < 1000; i++)
        device_send(device, report(VAN, i));
    rig_expect_log(set.rig, "publishes per second");
    int64_t end = rig_clock() + 60000;
    while (scripted_broker_publishes(set.broker, "trackbus/message/#", "\"message.seqnum\":999") == 0 &&
           rig_clock() < end)
        rig_wait_until(rig_clock() + 100);
    expect_report(&set, 999);
    cr_assert_leq(scripted_broker_hits(set.broker, set.rule), 4);
    scripted_broker_finish(set.broker);
}

// --- subscriptions ---

#define COMMANDS  "trackbus/command/gw/#"
#define TELEMETRY "trackbus/state/gw/devices/+/telemetry/#"

Test(link, asks_again_for_a_subscription_that_is_refused_for_now) {
    struct set set = up_with(
        (struct scripted_rule){.on = SCRIPTED_SUBSCRIBE, .topic = COMMANDS, .reason = 0x97, .times = 2},
        NULL);
    report_arrives(&set, 1);
    rig_expect_log(set.rig, "subscription to " COMMANDS " rejected for now");
    scripted_expect_subscribes(set.broker, GATEWAY, COMMANDS, 3);
    rig_expect_log(set.rig, "subscription to " COMMANDS " accepted");
    cr_assert_eq(scripted_broker_connects(set.broker, GATEWAY), 1);
    cr_assert_eq(rig_log_count(set.rig, "rejected for now"), 1);
    scripted_broker_finish(set.broker);
}

// What somebody else writes to telemetry has to be put right.
Test(link, asks_again_for_telemetry_that_is_refused_for_now) {
    struct set set = up_with(
        (struct scripted_rule){.on = SCRIPTED_SUBSCRIBE, .topic = TELEMETRY, .reason = 0x97, .times = 1},
        NULL);
    report_arrives(&set, 1);
    rig_expect_log(set.rig, "subscription to " TELEMETRY " rejected for now");
    scripted_expect_subscribes(set.broker, GATEWAY, TELEMETRY, 2);
    cr_assert_eq(scripted_broker_connects(set.broker, GATEWAY), 1);
    scripted_broker_finish(set.broker);
}

Test(link, names_what_the_broker_must_allow) {
    struct set set =
        up_with((struct scripted_rule){.on = SCRIPTED_SUBSCRIBE, .topic = COMMANDS, .reason = 0x87}, NULL);
    report_arrives(&set, 1);
    rig_expect_log(set.rig, "must let the client 'trackbus' read it");
    scripted_broker_disconnect(set.broker, GATEWAY, 0);
    report_arrives(&set, 2);
    cr_assert_eq(rig_log_count(set.rig, "must let the client"), 1);
    scripted_broker_finish(set.broker);
}

Test(link, blames_no_access_list_for_what_is_not_its_fault) {
    struct set set =
        up_with((struct scripted_rule){.on = SCRIPTED_SUBSCRIBE, .topic = COMMANDS, .reason = 0x8F}, NULL);
    report_arrives(&set, 1);
    rig_expect_log(set.rig, "subscription to " COMMANDS " rejected: Topic Filter invalid");
    cr_assert(!rig_log_has(set.rig, "access list"));
    scripted_broker_finish(set.broker);
}

// --- several brokers ---

// A rig with a second broker; the rig's port is that of the second one.
static struct scripted_broker *second_broker(struct set *set, int *first_port) {
    *first_port = scripted_broker_port(set->broker);
    return scripted_broker_start(set->rig);
}

Test(link, goes_to_the_next_broker_when_one_is_away) {
    struct set set = set_with((struct scripted_rule){.times = 1});
    int port;
    char changes[160];
    struct scripted_broker *other = second_broker(&set, &port);
    snprintf(changes, sizeof changes, "{'mqtt': {'url': ['mqtt://127.0.0.1:%d', 'mqtt://127.0.0.1:%d']}}",
             port, scripted_broker_port(other));
    rig_gateway_start(set.rig, changes);
    report_arrives(&set, 1);
    scripted_broker_stop(set.broker);
    struct set there = {.rig = set.rig, .broker = other};
    report_arrives(&there, 2);
    scripted_broker_end(set.broker);
    scripted_broker_finish(other);
}

static void follows(uint8_t reason) {
    struct set set = set_with((struct scripted_rule){.times = 1});
    int port;
    char reference[40], changes[80];
    struct scripted_broker *other = second_broker(&set, &port);
    snprintf(reference, sizeof reference, "127.0.0.1:%d", scripted_broker_port(other));
    scripted_broker_unset(set.broker, set.rule);
    scripted_broker_set(set.broker, (struct scripted_rule){.reason = reason, .server_reference = reference});
    snprintf(changes, sizeof changes, "{'mqtt': {'url': 'mqtt://127.0.0.1:%d'}}", port);
    rig_gateway_start(set.rig, changes);
    struct set there = {.rig = set.rig, .broker = other};
    report_arrives(&there, 1);
    size_t before = scripted_broker_connects(set.broker, GATEWAY);
    scripted_broker_disconnect(other, GATEWAY, 0);
    report_arrives(&there, 2);
    cr_assert_eq(scripted_broker_connects(set.broker, GATEWAY) - before, reason == 0x9D ? 0 : 1);
    scripted_broker_end(set.broker);
    scripted_broker_finish(other);
}

Test(link, uses_another_server_for_one_connection) {
    follows(0x9C);
}

Test(link, goes_where_a_server_has_moved) {
    follows(0x9D);
}

// libmosquitto does not hand over what the broker names then.
Test(link, goes_to_the_next_broker_when_one_sends_it_away) {
    struct set set = set_with((struct scripted_rule){.times = 1});
    int port;
    char changes[160];
    struct scripted_broker *other = second_broker(&set, &port);
    scripted_broker_set(set.broker, (struct scripted_rule){.on = SCRIPTED_PUBLISH,
                                                           .topic = "trackbus/message/#",
                                                           .disconnect = 0x9C,
                                                           .server_reference = "nowhere:1"});
    snprintf(changes, sizeof changes, "{'mqtt': {'url': ['mqtt://127.0.0.1:%d', 'mqtt://127.0.0.1:%d']}}",
             port, scripted_broker_port(other));
    rig_gateway_start(set.rig, changes);
    struct set there = {.rig = set.rig, .broker = other};
    report_arrives(&there, 1); // which the first one did not take
    rig_expect_log(set.rig, "retrying at once");
    scripted_broker_end(set.broker);
    scripted_broker_finish(other);
}

Test(link, goes_to_the_next_broker_when_one_refuses) {
    struct set set = set_with((struct scripted_rule){.times = 1});
    int port;
    char changes[160];
    struct scripted_broker *other = second_broker(&set, &port);
    scripted_broker_unset(set.broker, set.rule);
    scripted_broker_set(set.broker, (struct scripted_rule){.reason = 0x88});
    snprintf(changes, sizeof changes, "{'mqtt': {'url': ['mqtt://127.0.0.1:%d', 'mqtt://127.0.0.1:%d']}}",
             port, scripted_broker_port(other));
    rig_gateway_start(set.rig, changes);
    struct set there = {.rig = set.rig, .broker = other};
    report_arrives(&there, 1);
    scripted_broker_end(set.broker);
    scripted_broker_finish(other);
}

// However often it tried while the broker was away.
Test(link, is_back_within_five_seconds_after_an_outage) {
    struct set set = up_with((struct scripted_rule){.times = 1}, NULL);
    report_arrives(&set, 1);
    scripted_broker_stop(set.broker);
    rig_expect_log_times(set.rig, "retrying in",
                         6); // 1, 2, 4 and then 5 s: more than it would take to reach 30
    scripted_broker_restart(set.broker, SCRIPTED_RETAINED | SCRIPTED_SESSIONS);
    int64_t begun = rig_clock();
    scripted_expect_connected(set.broker, GATEWAY);
    cr_assert_leq(rig_clock() - begun, 5000 + 1500);
    scripted_broker_finish(set.broker);
}

Test(link, circle_of_references_is_followed_slowly) {
    struct set set = set_with((struct scripted_rule){.times = 1});
    char reference[40];
    snprintf(reference, sizeof reference, "127.0.0.1:%d", scripted_broker_port(set.broker));
    scripted_broker_unset(set.broker, set.rule);
    scripted_broker_set(set.broker,
                        (struct scripted_rule){.reason = 0x9C, .server_reference = reference, .times = 6});
    rig_gateway_start(set.rig, NULL);
    rig_expect_log(set.rig, "which is not followed");
    report_arrives(&set, 1);
    scripted_broker_finish(set.broker);
}
