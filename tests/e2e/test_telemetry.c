// The last value of each field, retained: bare JSON, published when it changed, never moved back.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/e2e/state.h"

TestSuite(telemetry, .fini = rig_clean);
TestSuite(telemetry_3_1_1, .fini = rig_clean);

#define TELEMETRY VAN_STATE "/telemetry/"
#define BATTERY   TELEMETRY "battery.voltage"
#define LATITUDE  TELEMETRY "position.latitude"
#define POSITION  TELEMETRY "position"
#define LORRY_IS  "state/gw/devices/" LORRY "/telemetry/"
#define MAGICYO                                                                                              \
    "{'channels':[{'id':2,'name':'magicyo','protocol':'magicyo','tcp':'127.0.0.1:0'},"                       \
    "{'id':1,'name':'mictrack','protocol':'mictrack','tcp':'127.0.0.1:0'}]}"

// Reports at 09:18:03 and before and after it.
#define NOON    "R0;10+190109120000+22.63827+114.02922+2.14+69+2+3744+1"
#define WIFI_AT "+6a:db:54:5a:79:6d,-91,00:9a:cd:a2:e6:21,-94+3+"

// Live messages on the topic, of all that came by now.
static void expect_live(struct rig *rig, const char *topic, const char *const *payloads, size_t count) {
    size_t came = rig_count(rig, topic);
    for (size_t i = 0; i < count && i < came; i++)
        cr_assert_str_eq(rig_message_at(rig, topic, i)->payload, payloads[i],
                         "number %zu on %s is %s, not %s", i, topic, rig_message_at(rig, topic, i)->payload,
                         payloads[i]);
    cr_assert(came == count, "%zu messages on %s, expected %zu", came, topic, count);
}

#define EXPECT_LIVE(rig, topic, ...)                                                                         \
    expect_live(rig, topic, (const char *const[]){__VA_ARGS__},                                              \
                sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

// --- every field, as it stands in the message ---

// Says where a message comes from and which one it is, but nothing about the device.
static bool is_of_the_message(const char *field) {
    static const char *const others[] = {"ident",       "timestamp", "server.timestamp", "channel.id", "peer",
                                         "protocol.id", NULL};
    for (size_t i = 0; others[i] != NULL; i++)
        if (strcmp(field, others[i]) == 0)
            return true;
    return strncmp(field, "device.", 7) == 0 || strncmp(field, "message.", 8) == 0;
}

// The text of a member of a message, as it stands there.
static char *text_in(const char *payload, const char *key, const json_t *value) {
    char start[96];
    snprintf(start, sizeof start, "\"%s\":", key);
    const char *text = strstr(payload, start) + strlen(start);
    if (!json_is_number(value))
        return json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(15));
    return strndup(text, strcspn(text, ",}"));
}

static size_t expect_fields(struct rig *rig, const char *ident, const struct rig_message *message) {
    json_t *json = json_of(message), *value;
    const char *key;
    size_t count = 0;
    json_object_foreach(json, key, value) {
        char topic[160];
        if (is_of_the_message(key))
            continue;
        char *text = text_in(message->payload, key, value);
        snprintf(topic, sizeof topic, "state/gw/devices/%s/telemetry/%s", ident, key);
        rig_expect_standing(rig, topic, text);
        free(text);
        count++;
    }
    json_decref(json);
    return count;
}

static const struct {
    const char *items;
    size_t fields;
} mictrack_reports[] = {
    {"R0;10+190109091803+22.63827+114.02922+2.14+69+2+3744+113", 9},
    {"R0;10+190109091903+-0.5+-114.02922+0+0+5+4000+114", 10},
    {"R1;190109092003+6a:db:54:5a:79:6d,-91,00:9a:cd:a2:e6:21,-94+3+3831+0", 4},
    {"R2;190109092103+0,21681,20616,460+4+3976+0", 8},
    {"RC;MT825_MICTRACK_B1.07V3.3_20200910+0+120+0+720+0+32+1", 9},
    {"RH;5+190109092203+0+0+0+0+11+3954+1", 4},
    {"R9;what \"is\" this", 2},
};

STORY(telemetry, of_every_field_of_mictrack) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    for (size_t i = 0; i < sizeof mictrack_reports / sizeof mictrack_reports[0]; i++) {
        say(rig, device, VAN, mictrack_reports[i].items);
        rig_expect(rig, "message/gw/devices/" VAN, NULL);
        size_t count = expect_fields(rig, VAN, rig_message_at(rig, "message/gw/devices/" VAN, i));
        cr_assert(count == mictrack_reports[i].fields, "%zu fields of %s, expected %zu", count,
                  mictrack_reports[i].items, mictrack_reports[i].fields);
    }
    rig_finish(rig);
}

// Numbers, booleans, texts and lists, literally.
STORY(telemetry, is_bare_json) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    say(rig, device, VAN, NOON);
    say(rig, device, VAN, "R1;190109120100+6a:db:54:5a:79:6d,-91+5+3831+0");
    say(rig, device, VAN, "R2;190109120200+0,21681,20616,460+4+3976+0");
    rig_expect_standing(rig, BATTERY, "3.976");
    rig_expect_standing(rig, LATITUDE, "22.63827");
    rig_expect_standing(rig, TELEMETRY "position.valid", "true");
    rig_expect_standing(rig, TELEMETRY "alarm.event", "true");
    rig_expect_standing(rig, TELEMETRY "gsm.mnc", "0");
    rig_expect_standing(rig, TELEMETRY "gsm.network.type", "\"GSM\"");
    rig_expect_standing(rig, TELEMETRY "wifi.access.points",
                        "[{\"mac\":\"6a:db:54:5a:79:6d\",\"rssi\":-91}]");
    rig_finish(rig);
}

static int lorry(struct rig *rig) {
    return rig_tcp_to(rig, "magicyo");
}

// Every attribute; see tests/vectors/magicyo/attributes-02.vector.
#define ATTRIBUTES                                                                                           \
    "55550083383634383637303232353131303135030060006504020000045f5e10000006014b00080109006602019c00670204f1" \
    "00cb040012d68700cc01eb00cd01f900ce01f000cf011f00d0015800d102007b00d20211d7012d0101012e01000132010101"   \
    "3301000191015b019301110197014e019c01ff019d0208662a1a1a80aaaa"

STORY(telemetry, of_every_field_of_magicyo) {
    struct rig *rig = rig_up(MAGICYO);
    device_send_hex(lorry(rig), ATTRIBUTES);
    const struct rig_message *message = rig_expect(rig, "message/gw/devices/" LORRY, NULL);
    cr_assert(expect_fields(rig, LORRY, message) == 22);
    rig_expect_standing(rig, LORRY_IS "tire.pressure.1", "2.35");
    rig_expect_standing(rig, LORRY_IS "tire.temperature.1", "-7");
    rig_expect_standing(rig, LORRY_IS "engine.ignition.status", "true");
    rig_expect_standing(rig, LORRY_IS "vehicle.mileage", "123456.7");
    rig_finish(rig);
}

STORY(telemetry, is_there_also_when_messages_are_on_channel_topics_only) {
    struct rig *rig = rig_up("{'messages':['channels']}");
    say(rig, rig_tcp(rig), VAN, NOON);
    rig_expect_standing(rig, BATTERY, "3.744");
    json_decref(rig_expect_standing_json(rig, POSITION, "{'latitude':22.63827}"));
    rig_finish(rig);
}

STORY(telemetry, of_datagrams) {
    struct rig *rig = rig_up(NULL);
    say(rig, rig_udp(rig), VAN, NOON);
    rig_expect_standing(rig, BATTERY, "3.744");
    json_decref(rig_expect_standing_json(rig, POSITION, "{'latitude':22.63827}"));
    rig_finish(rig);
}

// --- when it is published ---

STORY(telemetry, comes_when_it_changed) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    say(rig, device, VAN, "R0;10+190109120000+22.63827+114.02922+2.14+69+2+3744+1");
    rig_expect(rig, TELEMETRY "message.seqnum", "1");
    say(rig, device, VAN, "R0;10+190109120100+22.63827+114.02922+2.14+69+2+3744+2");
    rig_expect(rig, TELEMETRY "message.seqnum", "2");
    say(rig, device, VAN, "R0;10+190109120200+22.63827+114.02922+2.14+70+2+3744+3");
    rig_expect(rig, TELEMETRY "position.direction", "70");
    rig_expect(rig, TELEMETRY "message.seqnum", "3");
    say(rig, device, VAN, "R0;10+190109120300+22.63827+114.02922+2.14+69+2+3700+4");
    rig_expect(rig, BATTERY, "3.7");
    stop_and_hear(rig);
    EXPECT_LIVE(rig, BATTERY, "3.744", "3.7");
    EXPECT_LIVE(rig, LATITUDE, "22.63827");
    EXPECT_LIVE(rig, TELEMETRY "position.valid", "true");
    EXPECT_LIVE(rig, TELEMETRY "position.direction", "69", "70", "69");
    cr_assert(rig_count(rig, POSITION) == 3, "%zu positions came", rig_count(rig, POSITION));
    rig->finished = true;
}

// --- how often ---

#define HOURLY "{'telemetry_interval':3600}"

// A black box, in one segment. The first one is published at once, and the last when the interval is over.
STORY(telemetry, of_what_a_tracker_has_buffered_comes_once) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    char reports[50 * 96] = "";
    for (int i = 0; i < 50; i++)
        snprintf(reports + strlen(reports), 96,
                 "MT;6;" VAN ";R0;10+1901091200%02d+22.63827+114.02922+2.14+69+2+%d+1\r\n", i, 3700 + i);
    device_send(device, reports);
    rig_expect(rig, BATTERY, "3.749");
    stop_and_hear(rig);
    EXPECT_LIVE(rig, BATTERY, "3.7", "3.749");
    cr_assert(rig_count(rig, "message/gw/devices/" VAN) == 50, "the messages themselves all come");
    rig->finished = true;
}

// Who is connected is not telemetry, and what waits is not lost when the gateway stops.
STORY(telemetry, waits_for_its_interval) {
    struct rig *rig = rig_up(HOURLY);
    int device = rig_tcp(rig);
    say(rig, device, VAN, "R0;10+190109120000+22.63827+114.02922+2.14+69+2+3744+1");
    rig_expect(rig, BATTERY, "3.744");
    say(rig, device, VAN, "R0;10+190109120100+22.63827+114.02922+2.14+69+2+3743+2");
    say(rig, device, VAN, "R0;10+190109120200+22.63827+114.02922+2.14+69+2+3742+3");
    say(rig, rig_tcp(rig), CAR, "R0;10+190109120200+22.63827+114.02922+2.14+69+2+3600+3");
    rig_expect(rig, CAR_STATE "/telemetry/battery.voltage", "3.6");
    close(device);
    rig_expect(rig, VAN_STATE "/connected", "false");
    EXPECT_LIVE(rig, BATTERY, "3.744");
    stop_and_hear(rig);
    EXPECT_LIVE(rig, BATTERY, "3.744", "3.742");
    rig->finished = true;
}

// What somebody else writes meanwhile is put right at once, with the value as it is by then.
Test(telemetry, that_waits_is_put_right_all_the_same) {
    struct rig *rig = rig_up(HOURLY);
    int device = rig_tcp(rig);
    say(rig, device, VAN, "R0;10+190109120000+22.63827+114.02922+2.14+69+2+3744+1");
    rig_expect(rig, BATTERY, "3.744");
    say(rig, device, VAN, "R0;10+190109120100+22.63827+114.02922+2.14+69+2+3743+2");
    rig_publish_retained(rig, BATTERY, "9.9");
    rig_expect_standing(rig, BATTERY, "3.743");
    rig_finish(rig);
}

STORY(telemetry, comes_with_every_report_if_so_configured) {
    struct rig *rig = rig_up("{'telemetry_interval':0}");
    int device = rig_tcp(rig);
    for (int i = 0; i < 4; i++) {
        char items[96], voltage[16];
        snprintf(items, sizeof items, "R0;10+19010912000%d+22.63827+114.02922+2.14+69+2+%d+1", i, 3701 + i);
        snprintf(voltage, sizeof voltage, "3.70%d", 1 + i);
        say(rig, device, VAN, items);
        rig_expect(rig, BATTERY, voltage);
    }
    stop_and_hear(rig);
    EXPECT_LIVE(rig, BATTERY, "3.701", "3.702", "3.703", "3.704");
    rig->finished = true;
}

// Black boxes: reports that were kept while there was no network come behind the newer ones, in any order.
STORY(telemetry, is_not_moved_by_an_older_report) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    say(rig, device, VAN, "R0;10+190109120000+22.63827+114.02922+2.14+69+2+3744+1");
    say(rig, device, VAN, "R0;9+190109110000+21+113+1+10+3+3700+2");
    say(rig, device, VAN, "R0;8+190109113000+20+112+0+20+4+3600+3");
    say(rig, device, VAN, "R0;7+180109120001+19+111+5+30+6+3500+4");
    say(rig, device, VAN, "R0;10+190109120001+22.63827+114.02922+2.14+69+2+3733+5");
    rig_expect(rig, BATTERY, "3.733");
    stop_and_hear(rig);
    EXPECT_LIVE(rig, BATTERY, "3.744", "3.733");
    EXPECT_LIVE(rig, LATITUDE, "22.63827");
    EXPECT_LIVE(rig, TELEMETRY "position.longitude", "114.02922");
    EXPECT_LIVE(rig, TELEMETRY "position.speed", "2.14");
    EXPECT_LIVE(rig, TELEMETRY "position.satellites", "10");
    EXPECT_LIVE(rig, TELEMETRY "event.enum", "2");
    cr_assert(rig_count(rig, POSITION) == 1, "%zu positions came", rig_count(rig, POSITION));
    cr_assert(rig_count(rig, "message/gw/devices/" VAN) == 5, "the messages themselves all come");
    rig->finished = true;
}

STORY(telemetry, is_moved_by_a_report_of_the_same_second) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    say(rig, device, VAN, NOON);
    say(rig, device, VAN, "R0;10+190109120000+22.63827+114.02922+2.14+69+2+3700+2");
    rig_expect_standing(rig, BATTERY, "3.7");
    rig_finish(rig);
}

// The newest of each field.
STORY(telemetry, shows_a_field_of_an_older_report_that_was_not_shown_yet) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    say(rig, device, VAN, NOON);
    say(rig, device, VAN, "R1;190109110000+6a:db:54:5a:79:6d,-91+3+3600+2");
    rig_expect_standing(rig, TELEMETRY "wifi.access.points",
                        "[{\"mac\":\"6a:db:54:5a:79:6d\",\"rssi\":-91}]");
    rig_expect_standing(rig, BATTERY, "3.744");
    say(rig, device, VAN, "R1;190109100000+00:9a:cd:a2:e6:21,-94+3+3600+3");
    say(rig, device, VAN, "R1;190109113000+00:9a:cd:a2:e6:22,-90+3+3600+4");
    rig_expect_standing(rig, TELEMETRY "wifi.access.points",
                        "[{\"mac\":\"00:9a:cd:a2:e6:22\",\"rssi\":-90}]");
    rig_expect_standing(rig, BATTERY, "3.744");
    rig_finish(rig);
}

// The time of a report without one is the gateway's, which is later than that of the reports here.
STORY(telemetry, of_a_report_without_time_holds_up_no_other_field) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    say(rig, device, VAN, "RC;MT825_MICTRACK_B1.07V3.3_20200910+0+120+0+720+0+32+1");
    say(rig, device, VAN, NOON);
    rig_expect_standing(rig, BATTERY, "3.744");
    rig_expect_standing(rig, TELEMETRY "software.version", "\"MT825_MICTRACK_B1.07V3.3_20200910\"");
    rig_expect_standing(rig, TELEMETRY "custom.gsensor.status", "false");
    json_decref(rig_expect_standing_json(rig, POSITION, "{'latitude':22.63827}"));
    rig_finish(rig);
}

STORY(telemetry, stays_when_a_field_vanishes_from_reports) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    say(rig, device, VAN, "R0;10+190109120000+22.63827+114.02922+2.14+69+5+3744+1");
    say(rig, device, VAN, "R1;190109120100" WIFI_AT "3831+2");
    say(rig, device, VAN, "R2;190109120200+0,21681,20616,460+4+3976+3");
    rig_expect(rig, BATTERY, "3.976");
    stop_and_hear(rig);
    EXPECT_LIVE(rig, LATITUDE, "22.63827");
    EXPECT_LIVE(rig, TELEMETRY "alarm.event", "true");
    cr_assert(rig_count(rig, TELEMETRY "wifi.access.points") == 1);
    cr_assert(rig_count(rig, POSITION) == 1);
    rig_expect_standing(rig, LATITUDE, "22.63827");
    rig_expect_standing(rig, TELEMETRY "alarm.event", "true");
    json_decref(rig_expect_standing_json(rig, POSITION, "{'latitude':22.63827,'longitude':114.02922}"));
    rig->finished = true;
}

// An impossible value is no value, and half a position is no position.
STORY(telemetry, is_not_moved_by_a_value_that_was_left_out) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    say(rig, device, VAN, NOON);
    say(rig, device, VAN, "R0;11+190109120100+95+114.5+2.14+69+2+3733+2");
    rig_expect_standing(rig, BATTERY, "3.733");
    rig_expect_standing(rig, LATITUDE, "22.63827");
    json_decref(rig_expect_standing_json(rig, POSITION, "{'latitude':22.63827,'longitude':114.02922}"));
    rig_finish(rig);
}

STORY(telemetry, of_two_devices_is_never_mixed) {
    struct rig *rig = rig_up(NULL);
    int van = rig_tcp(rig), car = rig_tcp(rig);
    say(rig, van, VAN, NOON);
    say(rig, car, CAR, "R0;7+190109110000+-20+-112+0+20+2+3600+3");
    rig_expect_standing(rig, CAR_STATE "/telemetry/battery.voltage", "3.6");
    rig_expect_standing(rig, CAR_STATE "/telemetry/position.latitude", "-20");
    rig_expect_standing(rig, BATTERY, "3.744");
    rig_expect_standing(rig, LATITUDE, "22.63827");
    rig_finish(rig);
}

STORY(telemetry, of_what_came_while_the_broker_was_away) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    say(rig, device, VAN, NOON);
    rig_expect_standing(rig, BATTERY, "3.744");
    rig_broker_kill(rig);
    for (int i = 0; i < 50; i++)
        device_send(device, report(VAN, 100 + i)); // older
    device_send(device, "MT;6;" VAN ";R0;10+190109120100+22+114+2.14+69+2+3700+2\r\n");
    device_send(device, "MT;6;" VAN ";R0;10+190109120200+23+115+2.14+69+2+3600+3\r\n");
    rig_expect_counters(rig, ", 53 messages, ");
    rig_broker_start(rig, NULL);
    rig_expect_standing(rig, BATTERY, "3.6");
    rig_expect_standing(rig, LATITUDE, "23");
    json_decref(rig_expect_standing_json(rig, POSITION, "{'latitude':23,'longitude':115}"));
    rig_finish(rig);
}

// --- across starts ---

STORY(telemetry, stays_when_the_gateway_starts_anew) {
    struct rig *rig = rig_up(NULL);
    say(rig, rig_tcp(rig), VAN, NOON);
    rig_expect_standing(rig, BATTERY, "3.744");
    rig_gateway_stop(rig);
    rig_gateway_start(rig, NULL);
    int device = rig_tcp(rig);
    say(rig, device, VAN, "R1;190109120100" WIFI_AT "3831+2");
    rig_expect_standing(rig, BATTERY, "3.831");
    rig_expect_standing(rig, LATITUDE, "22.63827");
    json_decref(rig_expect_standing_json(rig, POSITION, "{'latitude':22.63827,'longitude':114.02922}"));
    rig_finish(rig);
}

// The broker has what is shown, and an older report does not replace it.
STORY(telemetry, is_not_moved_by_an_older_report_after_a_new_start) {
    struct rig *rig = rig_up(NULL);
    say(rig, rig_tcp(rig), VAN, NOON);
    rig_expect_standing(rig, BATTERY, "3.744");
    rig_gateway_stop(rig);
    rig_gateway_start(rig, NULL);
    rig_expect_log(rig, ": connected");
    int device = rig_tcp(rig);
    say(rig, device, VAN, "R0;8+190109113000+20+112+0+20+4+3600+2");
    say(rig, device, VAN, "R2;190109120200+0,21681,20616,460+2+3744+3");
    rig_expect_standing(rig, TELEMETRY "gsm.cellid", "21681");
    stop_and_hear(rig);
    rig_expect_standing(rig, LATITUDE, "22.63827");
    json_decref(rig_expect_standing_json(rig, POSITION, "{'latitude':22.63827,'longitude':114.02922}"));
    rig->finished = true;
}

// --- the position in one ---

static json_t *expect_position(struct rig *rig, const char *topic, const char *subset, const char *keys) {
    json_t *position = rig_expect_standing_json(rig, topic, subset);
    expect_keys(position, keys);
    return position;
}

#define MICTRACK_KEYS "direction latitude longitude satellites speed valid"

STORY(telemetry, position_has_all_of_a_report) {
    struct rig *rig = rig_up(NULL);
    say(rig, rig_tcp(rig), VAN, NOON);
    rig_expect(rig, POSITION, NULL);
    EXPECT_LIVE(rig, POSITION,
                "{\"direction\":69,\"latitude\":22.63827,\"longitude\":114.02922,\"satellites\":10,"
                "\"speed\":2.14,\"valid\":true}");
    rig_finish(rig);
}

// Dilution of precision is published, but is no accuracy.
STORY(telemetry, position_has_the_accuracy_that_the_device_gave) {
    struct rig *rig = rig_up(MAGICYO);
    device_send_hex(lorry(rig),
                    "5555005138363438363730323235313130313503004100330400025f5e10001a00f6adfeaa228b1302db0f"
                    "00f00900c00000055f5e1000674e8459155234cd1600000002dfff0000011170633111b2aaaa");
    json_decref(expect_position(rig, LORRY_IS "position",
                                "{'latitude':-34.60374,'longitude':-58.38162,'hdop':409.5,'accuracy':70000,"
                                "'gps_accuracy':70000,'altitude':-50,'speed':0}",
                                "accuracy altitude direction gps_accuracy hdop latitude longitude pdop "
                                "satellites speed vdop"));
    rig_expect_standing(rig, LORRY_IS "position.accuracy", "70000");
    rig_expect_standing(rig, LORRY_IS "position.gps_accuracy", NULL);
    rig_finish(rig);
}

STORY(telemetry, position_has_no_accuracy_where_the_device_gave_none) {
    struct rig *rig = rig_up(MAGICYO);
    device_send_hex(lorry(rig),
                    "555500073836343836373032323531313031350300230400025f5e10001a00f6adfeaa228b1302db0f5f5e"
                    "103c1a00f6adfeaa228b1300010f00aaaa");
    json_decref(expect_position(rig, LORRY_IS "position", "{'latitude':22.63827,'speed':0,'altitude':123}",
                                "altitude direction latitude longitude satellites speed"));
    rig_finish(rig);
}

// The speed of one is not that of the other.
STORY(telemetry, position_does_not_mix_two_reports) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    say(rig, device, VAN, NOON);
    say(rig, device, VAN, "R0;11+190109120100+22.5+114.5++70+2+3744+2");
    json_decref(expect_position(rig, POSITION, "{'latitude':22.5,'longitude':114.5,'satellites':11}",
                                "direction latitude longitude satellites valid"));
    rig_expect_standing(rig, TELEMETRY "position.speed", "2.14");
    rig_finish(rig);
}

STORY(telemetry, position_is_never_torn) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    for (int i = 1; i < 60; i++) {
        char text[160];
        snprintf(text, sizeof text, "MT;6;" VAN ";R0;%d+1901091200%02d+%d+%d+%d+%d+2+3744+%d\r\n", i + 1, i,
                 i, i, i, i, i);
        device_send(device, text);
    }
    rig_expect(rig, POSITION, "{'latitude':59,'longitude':59,'speed':59,'direction':59,'satellites':60}");
    stop_and_hear(rig);
    const struct rig_message *message;
    for (size_t next = 0; (message = rig_next(rig, POSITION, &next)) != NULL;) {
        char subset[160];
        json_t *json = json_of(message);
        int at = (int)json_integer_value(member(json, "latitude"));
        snprintf(subset, sizeof subset,
                 "{'latitude':%d,'longitude':%d,'speed':%d,'direction':%d,'satellites':%d}", at, at, at, at,
                 at + 1);
        json_t *whole = rig_json(subset);
        cr_assert(rig_json_contains(json, whole), "torn: %s", message->payload);
        json_decref(whole);
        json_decref(json);
    }
    rig->finished = true;
}

// A heartbeat has satellites but no coordinates. The position stays as it was.
STORY(telemetry, position_stays_when_a_report_has_no_coordinates) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    say(rig, device, VAN, NOON);
    say(rig, device, VAN, "RH;5+190109120100+0+0+0+0+11+3954+1");
    rig_expect_standing(rig, BATTERY, "3.954");
    rig_expect_standing(rig, TELEMETRY "position.satellites", "5");
    stop_and_hear(rig);
    const struct rig_message *message;
    for (size_t next = 0; (message = rig_next(rig, POSITION, &next)) != NULL;) {
        const char *payload = message->payload;
        cr_assert(strstr(payload, "\"direction\":69,\"latitude\":22.63827,\"longitude\":114.02922,") != NULL,
                  "the position is %s", payload);
        cr_assert(strstr(payload, ".0,") == NULL && strstr(payload, ".0}") == NULL,
                  "numbers are not as the device gave them: %s", payload);
    }
    cr_assert(rig_count(rig, POSITION) > 0);
    rig->finished = true;
}

// --- how much of it is wanted ---

// Ends with all that came on telemetry topics.
static struct rig *telemetry_of(const char *wanted) {
    char changes[48];
    snprintf(changes, sizeof changes, "{'telemetry':'%s'}", wanted);
    struct rig *rig = rig_up(changes);
    int device = rig_tcp(rig);
    say(rig, device, VAN, NOON);
    say(rig, device, VAN, "R0;11+190109120100+22.5+114.5+0+70+2+3744+2");
    rig_expect(rig, VAN_STATE "/connected", "true");
    stop_and_hear(rig);
    return rig;
}

STORY(telemetry, position_only) {
    struct rig *rig = telemetry_of("position");
    cr_assert(rig_count(rig, TELEMETRY "+") > 0, "there is no position");
    cr_assert(rig_count(rig, TELEMETRY "+") == rig_count(rig, POSITION), "there is more than the position");
    json_decref(expect_position(rig, POSITION, "{'latitude':22.5,'longitude':114.5}", MICTRACK_KEYS));
    rig->finished = true;
}

STORY(telemetry, off) {
    struct rig *rig = telemetry_of("off");
    expect_none(rig, TELEMETRY "#");
    rig->finished = true;
}

STORY(telemetry, position_only_does_not_go_back) {
    struct rig *rig = rig_up("{'telemetry':'position'}");
    int device = rig_tcp(rig);
    say(rig, device, VAN, NOON);
    say(rig, device, VAN, "R0;8+190109113000+20+112+0+20+4+3600+2");
    rig_expect(rig, POSITION, "{'latitude':22.63827}");
    stop_and_hear(rig);
    cr_assert(rig_count(rig, POSITION) == 1);
    rig->finished = true;
}

// --- a device whose clock was set back ---

#define PACE 30 // the gateway's clock is so much faster: five minutes are ten seconds

// Seconds since 1970 on the gateway's clock at the device's last message.
static double gateway_time(struct rig *rig) {
    const struct rig_message *message =
        rig_message_at(rig, "message/gw/devices/" VAN, rig_count(rig, "message/gw/devices/" VAN) - 1);
    json_t *json = json_of(message);
    double now = json_number_value(json_object_get(json, "server.timestamp"));
    json_decref(json);
    return now;
}

static void say_at(struct rig *rig, int device, double seconds, int battery) {
    char items[96], when[16];
    time_t time = (time_t)seconds;
    struct tm parts;
    strftime(when, sizeof when, "%y%m%d%H%M%S", gmtime_r(&time, &parts));
    snprintf(items, sizeof items, "R0;10+%s+22.63827+114.02922+2.14+69+2+%d+1", when, battery);
    say(rig, device, VAN, items);
}

// Also in Home Assistant, after a rollover of the GPS week or with a wrong time zone.
Test(telemetry, moves_again_when_the_clock_of_a_device_was_set_back, .timeout = 120) {
    struct rig *rig = rig_up_at("+0 x30", NULL);
    int device = rig_tcp(rig);
    say_at(rig, device, (double)time(NULL), 3900);
    rig_expect_standing(rig, BATTERY, "3.9");
    int64_t began = rig_clock();
    double first = gateway_time(rig);
    for (int i = 0; !rig_log_has(rig, "clock was set back"); i++) {
        double now = first + (double)(rig_clock() - began) / 1000 * PACE;
        cr_assert(now - first < 1800, "it is not recognised within half an hour");
        say_at(rig, device, now - 8 * 3600, 3700 + i % 2);
        rig_wait_until(rig_clock() + 500);
    }
    rig_expect(rig, "log/gw/channels/1/error",
               "{'event_code':304,'verdict':'clock set back','ident':'" VAN "'}");
    rig_expect(rig, BATTERY, NULL); // the first one
    rig_expect(rig, BATTERY, NULL); // behind it
    cr_assert(gateway_time(rig) - first > 240, "an old report alone has moved it");
    rig_finish(rig);
}

// --- when the device was last heard ---

static bool is_now(void *context) {
    json_t *retained = rig_retained(context, VAN_STATE "/last_active"), *value;
    const char *topic;
    bool now = false;
    json_object_foreach(retained, topic, value) {
        char *end;
        long seconds = strtol(json_string_value(value), &end, 10);
        now = *end == '\0' && labs(seconds - (long)time(NULL)) < 60;
    }
    json_decref(retained);
    return now;
}

// Whatever time the report is of; and without telemetry.
STORY(telemetry, off_leaves_when_a_device_was_last_active) {
    struct rig *rig = rig_up("{'telemetry':'off'}");
    int device = rig_tcp(rig);
    say(rig, device, VAN, NOON);
    cr_assert(rig_wait(is_now, rig, RIG_DEADLINE));
    cr_assert(rig_count_retained(rig, TELEMETRY "#") == 0);
    rig_broker_kill(rig);
    rig_broker_start(rig, NULL); // which has lost all
    cr_assert(rig_wait(is_now, rig, RIG_DEADLINE));
    close(device);
    rig_finish(rig);
}

// --- when it was measured ---

#define MINUTE(n, battery) "MT;6;" VAN ";R1;19010912" #n "00+6a:db:54:5a:79:6d,-91+5+" #battery "+0\r\n"
#define MEASURED           "1547035200"
#define MINUTE_1           "1547035260"
#define MINUTE_2           "1547035320"

static bool without_properties;

// time: what the user property says, where there are any.
static void expect_time(struct rig *rig, const char *topic, const char *subset, const char *time) {
    const struct rig_message *message = rig_expect(rig, topic, subset);
    const char *came = message->timestamp != NULL ? message->timestamp : "none";
    cr_assert_str_eq(came, without_properties ? "none" : time, "%s %s says %s, not %s", topic,
                     message->payload, came, time);
}

static void expect_times_of_the_first(struct rig *rig) {
    static const char *const topics[] = {
        "message/gw/devices/" VAN, "message/gw/channels/1/" VAN, BATTERY, POSITION, LATITUDE,
        TELEMETRY "ident"};
    for (size_t i = 0; i < sizeof topics / sizeof topics[0]; i++)
        expect_time(rig, topics[i], NULL, MEASURED);
    expect_time(rig, VAN_STATE "/connected", NULL, "none");
}

// Two reports wait, the second of them on disk alone; and of what is given again a part is older than they are.
static void tell_times(void) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    say(rig, device, VAN, NOON);
    expect_times_of_the_first(rig);
    rig_broker_kill(rig);
    device_send(device, MINUTE(01, 3831));
    rig_expect_log(rig, "writing them to disk");
    device_send(device, MINUTE(02, 3830));
    rig_broker_start(rig, NULL);
    expect_time(rig, "message/gw/devices/" VAN, "{'timestamp':" MINUTE_1 "}", MINUTE_1);
    expect_time(rig, "message/gw/channels/1/" VAN, "{'timestamp':" MINUTE_1 "}", MINUTE_1);
    expect_time(rig, "message/gw/devices/" VAN, "{'timestamp':" MINUTE_2 "}", MINUTE_2);
    expect_time(rig, BATTERY, "3.83", MINUTE_2);
    expect_time(rig, TELEMETRY "ident", NULL, MINUTE_2);
    expect_time(rig, POSITION, "{'latitude':22.63827}", MEASURED);
    expect_time(rig, LATITUDE, NULL, MEASURED);
    rig_finish(rig);
}

Test(telemetry, says_when_it_was_measured) {
    tell_times();
}

Test(telemetry_3_1_1, has_no_properties) {
    rig_speak("3.1.1");
    without_properties = true;
    tell_times();
}
