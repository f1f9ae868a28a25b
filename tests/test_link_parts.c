// What the link to the broker decides, piece by piece, without a broker: backoff, pace, version, route, causes,
// sizes of packets.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/libmosquitto.h"
#include "gateway/broker/backoff.h"
#include "gateway/broker/broker_book.h"
#include "gateway/broker/broker_limits.h"
#include "gateway/broker/link_cause.h"
#include "gateway/broker/pace.h"
#include "gateway/broker/packet.h"
#include "gateway/broker/protocol_version.h"
#include "gateway/broker/refusals.h"

#define DAY ((uint64_t)24 * 3600 * 1000)

// --- backoff ---

// The longest wait that the next delay can be, without the random part.
static unsigned longest(struct backoff *backoff) {
    struct backoff copy = *backoff;
    unsigned half = backoff_delay(&copy, 0);
    cr_assert_eq(backoff_delay(backoff, half), half * 2);
    return half * 2;
}

static void expect_delays(struct backoff *backoff, const unsigned *delays) {
    for (; *delays != 0; delays++)
        cr_assert_eq(longest(backoff), *delays);
}

Test(link_parts, waits_longer_each_time_up_to_half_a_minute) {
    struct backoff backoff = {0};
    expect_delays(&backoff, (unsigned[]){1000, 2000, 4000, 8000, 16000, 30000, 30000, 0});
}

Test(link_parts, after_an_outage_waits_five_seconds_at_most) {
    struct backoff backoff = {0};
    backoff_up(&backoff, 1000);
    backoff_down(&backoff, 1100);
    expect_delays(&backoff, (unsigned[]){1000, 2000, 4000, 5000, 5000, 0});
}

Test(link_parts, only_a_connection_that_lasted_begins_anew) {
    struct backoff backoff = {0};
    expect_delays(&backoff, (unsigned[]){1000, 2000, 0});
    backoff_up(&backoff, 1000);
    cr_assert(!backoff_down(&backoff, 1000 + BACKOFF_LASTING - 1));
    expect_delays(&backoff, (unsigned[]){4000, 0});
    backoff_up(&backoff, 100000);
    cr_assert(backoff_down(&backoff, 100000 + BACKOFF_LASTING));
    expect_delays(&backoff, (unsigned[]){1000, 0});
}

Test(link_parts, a_rival_makes_it_slow_until_a_connection_lasts) {
    struct backoff backoff = {0};
    backoff_up(&backoff, 1000);
    backoff_contested(&backoff);
    backoff_down(&backoff, 2000);
    expect_delays(&backoff, (unsigned[]){1000, 2000, 4000, 8000, 16000, 30000, 0});
    backoff_up(&backoff, 10000);
    backoff_down(&backoff, 10000 + BACKOFF_LASTING);
    expect_delays(&backoff, (unsigned[]){1000, 2000, 4000, 5000, 0});
}

Test(link_parts, a_refused_message_makes_it_quick_unless_there_is_a_rival) {
    struct backoff backoff = {0};
    expect_delays(&backoff, (unsigned[]){1000, 2000, 0});
    backoff_got_on(&backoff);
    expect_delays(&backoff, (unsigned[]){200, 400, 0});
    backoff_contested(&backoff);
    backoff_got_on(&backoff);
    expect_delays(&backoff, (unsigned[]){800, 0});
}

// --- pace ---

// Sends all that it may for so many milliseconds; returns how many.
static unsigned send_for(struct pace *pace, uint64_t *now, unsigned milliseconds, unsigned at_most) {
    unsigned sent = 0;
    for (unsigned i = 0; i < milliseconds; i++, ++*now)
        for (unsigned j = 0; j < at_most && pace_allows(pace, *now); j++, sent++)
            pace_sent(pace, *now);
    return sent;
}

Test(link_parts, sends_without_a_bound_until_a_complaint) {
    struct pace pace = {0};
    uint64_t now = 5000;
    cr_assert_eq(send_for(&pace, &now, 1000, 10), 10000);
}

Test(link_parts, sends_half_as_much_after_a_complaint_and_slowly_more) {
    struct pace pace = {0};
    uint64_t now = 5000;
    send_for(&pace, &now, 1000, 1);
    pace_complaint(&pace, now);
    unsigned first = send_for(&pace, &now, 1000, 10);
    cr_assert(first >= 480 && first <= 580, "%u", first);
    send_for(&pace, &now, 9000, 10);
    unsigned later = send_for(&pace, &now, 1000, 10);
    cr_assert(later > first + 100 && later < 1000, "%u after %u", later, first);
}

Test(link_parts, is_without_a_bound_again_after_a_long_time_without_complaints) {
    struct pace pace = {0};
    uint64_t now = 5000;
    send_for(&pace, &now, 1000, 1);
    pace_complaint(&pace, now);
    for (unsigned i = 0; i < 3600 && pace.rate > 0; i++, now += 1000)
        pace_allows(&pace, now);
    cr_assert_eq(send_for(&pace, &now, 100, 100), 10000);
}

Test(link_parts, tells_when_the_next_one_may_go) {
    struct pace pace = {0};
    uint64_t now = 5000;
    send_for(&pace, &now, 1000, 1);
    pace_complaint(&pace, now);
    while (pace_allows(&pace, now))
        pace_sent(&pace, now);
    now += pace_wait(&pace);
    cr_assert(pace_allows(&pace, now));
}

Test(link_parts, even_one_message_that_was_too_much_leaves_one_a_second) {
    struct pace pace = {0};
    uint64_t now = 5000;
    pace_complaint(&pace, now);
    unsigned sent = send_for(&pace, &now, 10000, 10);
    cr_assert(sent >= 9 && sent <= 15, "%u", sent);
}

// --- version ---

static struct protocol_version version_of(enum config_mqtt_version wanted) {
    struct protocol_version version;
    protocol_version_init(&version, wanted);
    return version;
}

Test(link_parts, a_refused_version_is_replaced_at_once_and_tried_again_after_a_day) {
    struct protocol_version version = version_of(MQTT_VERSION_AUTO);
    cr_assert_eq(protocol_version_next(&version, 1000), MQTT_5);
    cr_assert(protocol_version_refused(&version, 1000));
    cr_assert_eq(protocol_version_next(&version, 1000), MQTT_3_1_1);
    cr_assert(!protocol_version_is_trial(&version));
    cr_assert(!protocol_version_accepted(&version));
    cr_assert_eq(protocol_version_next(&version, 1000 + DAY - 1), MQTT_3_1_1);
    cr_assert_eq(protocol_version_next(&version, 1000 + DAY), MQTT_5);
}

Test(link_parts, a_broker_that_closes_without_a_word_is_tried_with_both) {
    struct protocol_version version = version_of(MQTT_VERSION_AUTO);
    cr_assert(!protocol_version_closed(&version, 0));
    cr_assert_eq(protocol_version_next(&version, 0), MQTT_5);
    cr_assert(!protocol_version_closed(&version, 0));
    cr_assert_eq(protocol_version_next(&version, 0), MQTT_3_1_1);
    cr_assert(protocol_version_is_trial(&version));
    cr_assert(protocol_version_accepted(&version), "looks once more");
    cr_assert_eq(protocol_version_next(&version, 0), MQTT_5);
    cr_assert(protocol_version_closed(&version, 0), "now it is known, and 3.1.1 follows at once");
    cr_assert_eq(protocol_version_next(&version, 0), MQTT_3_1_1);
    cr_assert(!protocol_version_accepted(&version));
    cr_assert(!protocol_version_closed(&version, 0));
    cr_assert_eq(protocol_version_next(&version, 0), MQTT_3_1_1);
}

// A balancer accepts connections and closes them while its broker is away.
Test(link_parts, a_broker_that_was_away_behind_a_proxy_is_not_taken_for_an_old_one) {
    struct protocol_version version = version_of(MQTT_VERSION_AUTO);
    protocol_version_closed(&version, 0);
    protocol_version_closed(&version, 0);
    cr_assert(protocol_version_accepted(&version));
    cr_assert_eq(protocol_version_next(&version, 0), MQTT_5);
    cr_assert(!protocol_version_accepted(&version));
    for (int i = 0; i < 10; i++)
        protocol_version_closed(&version, 0);
    cr_assert_eq(protocol_version_next(&version, 0), MQTT_5);
}

Test(link_parts, a_port_that_never_answers_is_tried_with_both_in_turn) {
    struct protocol_version version = version_of(MQTT_VERSION_AUTO);
    for (int i = 0; i < 8; i++) {
        cr_assert_eq(protocol_version_next(&version, 0), i % 4 < 2 ? MQTT_5 : MQTT_3_1_1, "number %d", i);
        protocol_version_closed(&version, 0);
    }
}

Test(link_parts, a_version_that_is_wanted_stays) {
    struct protocol_version five = version_of(MQTT_VERSION_5), old = version_of(MQTT_VERSION_3_1_1);
    for (int i = 0; i < 5; i++) {
        cr_assert(!protocol_version_refused(&five, 0) && !protocol_version_closed(&five, 0));
        cr_assert(!protocol_version_refused(&old, 0) && !protocol_version_closed(&old, 0));
        cr_assert_eq(protocol_version_next(&five, 0), MQTT_5);
        cr_assert_eq(protocol_version_next(&old, 0), MQTT_3_1_1);
    }
    cr_assert(!protocol_version_accepted(&old));
}

// --- which broker ---

static void keep_path(void *context, const char *path, const char *problem) {
    snprintf(context, 48, "%s", path);
}

Test(link_parts, the_url_at_fault_is_named) {
    static const char text[] = "{\"mqtt\": {\"url\": [\"mqtt://one\", \"http://two\"]}}";
    static const char none[] = "{\"mqtt\": {\"url\": []}}";
    char path[48] = "";
    cr_assert_null(config_parse(text, strlen(text), keep_path, path));
    cr_assert_str_eq(path, "$.mqtt.url[1]");
    cr_assert_null(config_parse(none, strlen(none), keep_path, path));
    cr_assert_str_eq(path, "$.mqtt.url");
}

static void add_path(void *context, const char *path, const char *problem) {
    char *paths = context;
    snprintf(paths + strlen(paths), 160 - strlen(paths), "%s ", path);
}

Test(link_parts, one_url_at_fault_hides_no_other) {
    static const char text[] = "{\"mqtt\": {\"url\": [\"mqtt://one\", 2, \"http://three\"], \"qos\": 7}}";
    char paths[160] = "";
    cr_assert_null(config_parse(text, strlen(text), add_path, paths));
    cr_assert_str_eq(paths, "$.mqtt.url[1] $.mqtt.qos $.mqtt.url[2] ", "faults at %s", paths);
}

static struct config *config_of(const char *urls) {
    char text[300];
    int length = snprintf(text, sizeof text, "{\"mqtt\": {\"url\": %s}}", urls);
    struct config *config = config_parse(text, (size_t)length, NULL, NULL);
    cr_assert(config != NULL);
    return config;
}

static void expect_next(struct broker_route *route, const char *host, int port) {
    const struct broker *broker = broker_route_next(route);
    cr_assert_str_eq(broker->address.host, host);
    cr_assert_eq(broker->address.port, port);
}

#define THREE "[\"mqtt://one\", \"mqtt://two\", \"mqtts://three\"]"

Test(link_parts, the_next_broker_is_tried_when_one_is_away) {
    struct config *config = config_of(THREE);
    struct broker_route route;
    broker_route_open(&route, config);
    expect_next(&route, "one", 1883);
    cr_assert(broker_route_failed(&route));
    expect_next(&route, "two", 1883);
    cr_assert(broker_route_failed(&route));
    expect_next(&route, "three", 8883);
    cr_assert(!broker_route_failed(&route), "the round is over");
    expect_next(&route, "one", 1883);
    broker_route_close(&route);
    config_free(config);
}

Test(link_parts, the_broker_that_worked_is_tried_first_by_all_links) {
    struct config *config = config_of(THREE);
    struct broker_route route, other;
    broker_route_open(&route, config);
    broker_route_open(&other, config);
    broker_route_next(&route);
    broker_route_failed(&route);
    expect_next(&route, "two", 1883);
    broker_route_worked(&route);
    expect_next(&other, "two", 1883);
    expect_next(&route, "two", 1883);
    broker_route_failed(&route);
    expect_next(&route, "one", 1883);
    broker_route_failed(&route);
    expect_next(&route, "three", 8883);
    broker_route_close(&route);
    broker_route_close(&other);
    config_free(config);
}

Test(link_parts, a_reference_is_followed_for_one_connection_or_for_good) {
    struct config *config = config_of(THREE);
    struct broker_route route;
    broker_route_open(&route, config);
    broker_route_next(&route);
    cr_assert(broker_route_refer(&route, "four:99 five", false));
    expect_next(&route, "four", 99);
    cr_assert(!broker_route_failed(&route));
    expect_next(&route, "one", 1883);
    cr_assert(broker_route_refer(&route, "[::1]:44", true));
    expect_next(&route, "::1", 44);
    broker_route_worked(&route);
    expect_next(&route, "::1", 44);
    cr_assert(!broker_route_refer(&route, "", false));
    broker_route_close(&route);
    config_free(config);
}

Test(link_parts, a_circle_of_references_ends) {
    struct config *config = config_of("\"mqtt://one\"");
    struct broker_route route;
    broker_route_open(&route, config);
    for (int i = 0; i < 5; i++) {
        broker_route_next(&route);
        cr_assert(broker_route_refer(&route, "one", i % 2 == 0));
    }
    broker_route_next(&route);
    cr_assert(!broker_route_refer(&route, "one", false));
    broker_route_close(&route);
    config_free(config);
}

// --- causes ---

static void expect_cause(int version, int reason, const char *part) {
    struct config *config = config_of("\"mqtt://one\"");
    char cause[CAUSE_MAX];
    link_cause_of_refusal(cause, version, reason, config, "trackbus/will");
    cr_assert(strstr(cause, part) != NULL, "came     %s\nexpected %s", cause, part);
    config_free(config);
}

Test(link_parts, a_refusal_names_what_to_look_at) {
    expect_cause(MQTT_5, 0x86, "mqtt.password");
    expect_cause(MQTT_3_1_1, 4, "mqtt.password");
    expect_cause(MQTT_5, 0x87, "trackbus/will");
    expect_cause(MQTT_3_1_1, 5, "trackbus/will");
    expect_cause(MQTT_5, 0x85, "'trackbus'");
    expect_cause(MQTT_3_1_1, 2, "'trackbus'");
    expect_cause(MQTT_5, 0x84, "does not know MQTT 5");
    expect_cause(MQTT_3_1_1, 1, "does not know MQTT 3.1.1");
    expect_cause(MQTT_3_1_1, 3, "unavailable");
    expect_cause(MQTT_5, 0x97, "Quota");
}

Test(link_parts, tells_tls_from_the_first_bytes) {
    cr_assert(link_cause_is_tls((const unsigned char[]){0x15, 0x03}, 2));
    cr_assert(!link_cause_is_tls((const unsigned char[]){0x15}, 1));
    cr_assert(!link_cause_is_tls((const unsigned char[]){0x20, 0x03}, 2));
}

// --- what a broker takes ---

Test(link_parts, a_broker_that_says_nothing_has_no_limits) {
    struct broker_limits limits = broker_limits_read(NULL);
    cr_assert(limits.packet_size == 0 && limits.receive_maximum == 65535 && limits.qos == 2);
    cr_assert(limits.retain && limits.wildcards);
    cr_assert_null(broker_limits_describe(&limits));
}

Test(link_parts, limits_are_read_and_described) {
    mosquitto_property *properties = NULL;
    mosquitto_property_add_byte(&properties, MQTT_PROP_RETAIN_AVAILABLE, 0);
    mosquitto_property_add_byte(&properties, MQTT_PROP_MAXIMUM_QOS, 0);
    mosquitto_property_add_byte(&properties, MQTT_PROP_WILDCARD_SUB_AVAILABLE, 0);
    mosquitto_property_add_int16(&properties, MQTT_PROP_RECEIVE_MAXIMUM, 7);
    mosquitto_property_add_int32(&properties, MQTT_PROP_MAXIMUM_PACKET_SIZE, 1000);
    struct broker_limits limits = broker_limits_read(properties);
    mosquitto_property_free_all(&properties);
    cr_assert(limits.packet_size == 1000 && limits.receive_maximum == 7 && limits.qos == 0);
    char *text = broker_limits_describe(&limits);
    cr_assert(strstr(text, "retains nothing") != NULL && strstr(text, "QoS 0 only") != NULL &&
              strstr(text, "no wildcards") != NULL);
    free(text);
}

Test(link_parts, the_size_of_a_packet_is_exact) {
    struct mqtt_publish publish = {.topic = "t", .payload = "x", .length = 1, .qos = 1};
    cr_assert_eq(publish_size(&publish, "id"), 1 + 1 + 2 + 1 + 2 + 1 + 1);
    publish.qos = 0;
    cr_assert_eq(publish_size(&publish, "id"), 1 + 1 + 2 + 1 + 1 + 1);
    publish.retain = MQTT_RETAINED_SIGNED;
    cr_assert_eq(publish_size(&publish, "id"), 1 + 1 + 2 + 1 + 1 + 15 + 1);
    publish.measured = 1764172800250000; // "1764172800.25"
    cr_assert_eq(publish_size(&publish, "id"), 1 + 1 + 2 + 1 + 1 + 15 + 27 + 1);
    publish = (struct mqtt_publish){.topic = "t", .length = 16384, .qos = 1};
    cr_assert_eq(publish_size(&publish, "id"), 1 + 3 + 2 + 1 + 2 + 1 + 16384);
}

// All that is published of a report has the same properties, which are not made anew.
Test(link_parts, properties_are_made_once_for_a_report) {
    struct packet_last last = {.properties = NULL};
    struct mqtt_publish publish = {.topic = "t", .measured = 1764172800250000};
    const mosquitto_property *first = packet_properties(&last, &publish, "id");
    struct packet_extras extras = packet_read_extras(first);
    cr_assert(extras.measured == publish.measured && extras.instance == NULL);
    publish.topic = "u";
    cr_assert_eq(packet_properties(&last, &publish, "id"), first);
    publish.retain = MQTT_RETAINED_SIGNED;
    extras = packet_read_extras(packet_properties(&last, &publish, "id"));
    cr_assert(extras.measured == publish.measured && strcmp(extras.instance, "id") == 0);
    packet_free_extras(&extras);
    publish = (struct mqtt_publish){.topic = "t", .correlation = "x", .correlation_length = 1};
    extras = packet_read_extras(packet_properties(&last, &publish, "id"));
    cr_assert(extras.measured == 0 && extras.correlation_length == 1);
    packet_free_extras(&extras);
    publish = (struct mqtt_publish){.topic = "t"};
    cr_assert_null(packet_properties(&last, &publish, "id"));
    packet_forget(&last);
}

// Others may write what they like.
Test(link_parts, a_time_is_read_as_far_as_it_is_one) {
    static const struct {
        const char *text;
        int64_t time;
    } cases[] = {{"1764172800.123456", 1764172800123456},
                 {"1764172800.1234569", 1764172800123456},
                 {"1", 1000000},
                 {"0", 0},
                 {"-5", 0},
                 {"99999999999", 0},
                 {"1764172800 ", 0},
                 {"", 0},
                 {"nan", 0},
                 {"999999999999999999999999", 0}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        mosquitto_property *properties = NULL;
        mosquitto_property_add_string_pair(&properties, MQTT_PROP_USER_PROPERTY, "timestamp", cases[i].text);
        cr_expect_eq(packet_read_extras(properties).measured, cases[i].time, "%s", cases[i].text);
        mosquitto_property_free_all(&properties);
    }
}

Test(link_parts, what_a_broker_refuses_without_a_reason_is_not_taken) {
    cr_assert_eq(packet_answer(0), MQTT_TAKEN);
    cr_assert_eq(packet_answer(MQTT_RC_NO_MATCHING_SUBSCRIBERS), MQTT_TAKEN);
    cr_assert_eq(packet_answer(MQTT_RC_UNSPECIFIED), MQTT_NOT_TAKEN);
    cr_assert_eq(packet_answer(MQTT_RC_QUOTA_EXCEEDED), MQTT_TAKEN_LATER);
    cr_assert_eq(packet_answer(MQTT_RC_NOT_AUTHORIZED), MQTT_NEVER_TAKEN);
}

// A value of ours that the broker never takes costs fewer and fewer connections.
Test(refusals_of, values_are_tried_less_and_less_often) {
    static const uint64_t pauses[] = {20000, 40000, 80000, 160000, 320000, 320000};
    struct refusals refusals = {0};
    uint64_t now = 1000;
    for (size_t i = 0; i < sizeof pauses / sizeof pauses[0]; i++) {
        refusals_note(&refusals, "metrics", &refusals_of_says, now);
        cr_expect(refusals_forbid(&refusals, "metrics", &refusals_of_says, now + pauses[i] - 1), "%zu", i);
        now += pauses[i];
        cr_expect(!refusals_forbid(&refusals, "metrics", &refusals_of_says, now), "%zu", i);
    }
    refusals_note_taken(&refusals, "metrics", &refusals_of_says);
    refusals_note(&refusals, "metrics", &refusals_of_says, now);
    cr_expect(!refusals_forbid(&refusals, "metrics", &refusals_of_says, now + 20000));
}
