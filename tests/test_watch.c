// What fleet/ and watch/ make of messages, states and texts from outside.
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gateway/base/clean.h"
#include "gateway/fleet/fleet.h"
#include "gateway/fleet/listener.h"
#include "gateway/fleet/report.h"
#include "gateway/fleet/when.h"
#include "gateway/watch/keys.h"
#include "gateway/watch/line.h"
#include "gateway/watch/view.h"
#include "gateway/web/listed.h"
#include "gateway/web/waiting.h"

#define SECOND INT64_C(1000000)
#define NOW    (1600000100 * SECOND) // 2020-09-13T12:28:20 UTC

static void set_up(void) {
    setenv("TZ", "UTC", 1);
    tzset();
    line_setup();
}

TestSuite(line, .init = set_up);
TestSuite(when, .init = set_up);
TestSuite(report, .init = set_up);
TestSuite(fleet, .init = set_up);
TestSuite(page_bounds, .init = set_up);
TestSuite(view, .init = set_up);

// --- texts ---

Test(clean, what_a_terminal_would_obey_is_escaped) {
    static const struct {
        const char *text, *clean;
    } cases[] = {
        {"", ""},
        {"Van 1", "Van 1"},
        {"Bäckerei 東京", "Bäckerei 東京"},
        {"e\u0301", "e\u0301"}, // an accent of its own
        {"\x1b[2Jx", "\\x1b[2Jx"},
        {"a\r\n\tb", "a\\x0d\\x0a\\x09b"},
        {"\x7f", "\\x7f"},
        {"\xc2\x9b"
         "31m",
         "\\u009b31m"}, // one character that begins a sequence as well
        {"a\u202eb", "a\\u202eb"},
        {"\u200b\ufeff", "\\u200b\\ufeff"},
        {"\u2028", "\\u2028"},
        {"\xff\xc3", "\\xff\\xc3"},
        {"\xc0\x80", "\\xc0\\x80"},                   // a NUL in two bytes
        {"\xed\xa0\x80", "\\xed\\xa0\\x80"},          // half of a pair of UTF-16
        {"\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80"}, // beyond the last character
        {"\xe6\x9d", "\\xe6\\x9d"},                   // cut
        {"\u00a0\U0001f69a", "\u00a0\U0001f69a"},
        {"\U000e0041\U0010ffff", "\\ue0041\\u10ffff"},
        {"\ufffe\ufdd0", "\\ufffe\\ufdd0"},
    };
    char out[128];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        cr_assert_str_eq(clean_text(cases[i].text, strlen(cases[i].text), out, sizeof out), cases[i].clean);
    cr_assert_str_eq(clean_text("a\0b", 3, out, sizeof out), "a\\x00b");
}

// The same in JSON, which means what it meant.
Test(clean, json_is_escaped_as_json) {
    static const char json[] = "[\"\xc2\x9b"
                               "31m\",\"\u202e\u2028\x7f\",\"東\U0001f69a\",\"\U000e0041\"]";
    char *printed = NULL;
    size_t size = 0;
    FILE *file = open_memstream(&printed, &size);
    clean_print_json(json, strlen(json), file);
    fclose(file);
    cr_expect_str_eq(printed,
                     "[\"\\u009b31m\",\"\\u202e\\u2028\\u007f\",\"東\U0001f69a\",\"\\udb40\\udc41\"]");
    json_t *before = json_loads(json, 0, NULL), *after = json_loads(printed, 0, NULL);
    cr_expect(json_equal(before, after));
    json_decref(before);
    json_decref(after);
    free(printed);
}

Test(clean, text_is_cut_where_the_memory_ends) {
    char out[20], text[100];
    memset(text, 'x', sizeof text);
    cr_assert_str_eq(clean_text(text, sizeof text, out, sizeof out), "xxxxxxxxx…");
    memset(text, 0x1b, sizeof text);
    cr_assert_str_eq(clean_text(text, sizeof text, out, sizeof out), "\\x1b\\x1b\\x1b…");
}

// Of whatever is in it, no byte is written behind the memory.
Test(clean, text_of_any_bytes_stays_within_its_memory) {
    static const char *const texts[] = {"\xff\xff\xff\xff\xff\xff\xff\xff", "\U0010ffff\U0010ffff\U0010ffff",
                                        "\u202e\u202e\u202e\u202e", "東京都東京都", "\x1b\x1b\x1b\x1b\x1b"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        for (size_t capacity = 16; capacity < 40; capacity++) {
            char *out = malloc(capacity); // AddressSanitizer watches its end
            clean_text(texts[i], strlen(texts[i]), out, capacity);
            cr_assert_lt(strlen(out), capacity);
            free(out);
        }
}

Test(clean, characters_are_decoded) {
    size_t size;
    cr_assert(clean_decode("a", 1, &size) == 'a' && size == 1);
    cr_assert(clean_decode("ß", 2, &size) == 0xDF && size == 2);
    cr_assert(clean_decode("東x", 4, &size) == 0x6771 && size == 3);
    cr_assert(clean_decode("\U0001f69a", 4, &size) == 0x1F69A && size == 4);
    cr_assert(clean_decode("東", 2, &size) == CLEAN_INVALID && size == 1);
    cr_assert(clean_decode("\x80", 1, &size) == CLEAN_INVALID && size == 1);
    cr_assert(clean_decode("", 1, &size) == CLEAN_INVALID && size == 1);
}

Test(line, cells_have_their_width) {
    static const struct {
        const char *text;
        int columns;
        const char *cell;
    } cases[] = {
        {"ab", 4, "ab  "},     {"ab", -4, "  ab"},     {"abcd", 4, "abcd"},        {"abcde", 4, "abc…"},
        {"äöüß", 4, "äöüß"},   {"äöüßx", 4, "äöü…"},   {"東京", 4, "東京"},        {"東京都", 5, "東京…"},
        {"東京都", 4, "東… "}, {"東京都", -4, " 東…"}, {"e\u0301", 2, "e\u0301 "}, {"", 2, "  "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct line line = {.length = 0};
        line_cell(&line, cases[i].text, cases[i].columns);
        cr_assert_str_eq(line.text, cases[i].cell);
        cr_assert_eq(line.length, strlen(cases[i].cell));
    }
}

Test(line, is_cut_between_characters) {
    static const char *const cuts[] = {"", "a", "aä", "aä", "aä東", "aä東b", "aä東b"};
    for (int i = 0; i < 7; i++) {
        struct line line = {.length = 0};
        line_add(&line, "aä東b");
        line_cut(&line, i);
        cr_assert_str_eq(line.text, cuts[i]);
    }
}

Test(line, takes_no_more_than_it_holds) {
    struct line line = {.length = 0};
    for (int i = 0; i < 1000; i++)
        line_add(&line, "äöü");
    cr_assert_eq(line.length, sizeof line.text / 6 * 6 - (sizeof line.text % 6 == 0 ? 6 : 0));
    cr_assert_eq(strlen(line.text), line.length);
}

Test(when, times_and_ages) {
    static const struct {
        int64_t seconds;
        const char *age;
    } cases[] = {{-5, "0 s"},   {0, "0 s"},      {59, "59 s"},   {60, "1 min"},         {3599, "59 min"},
                 {3600, "1 h"}, {86399, "23 h"}, {86400, "1 d"}, {86400 * 400, "400 d"}};
    char out[WHEN_MAX];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        cr_assert_str_eq(when_age(cases[i].seconds * SECOND, out), cases[i].age);
    cr_assert_str_eq(when_time(NOW + 999999, out), "2020-09-13T12:28:20");
}

// --- messages ---

static struct report read_message(const char *json) {
    struct report report;
    cr_assert(report_message(&report, json, strlen(json), NOW), "not understood: %s", json);
    return report;
}

#define IDENT "\"ident\":\"a-1\""

Test(report, position_says_nothing_else) {
    static const char position[] = "{\"latitude\":22.5,\"longitude\":114.25,\"speed\":2}";
    struct report report;
    memset(&report, 0, sizeof report); // what the caller had there before
    cr_assert(report_position(&report, position, sizeof position - 1));
    cr_expect_eq(report.latitude, 22.5);
    cr_expect(isnan(report.battery), "the battery is %f", report.battery);
    cr_expect_eq(report.id, -1);
    cr_expect_str_eq(report.ident, "");
}

Test(report, a_message) {
    struct report report = read_message(
        "{" IDENT ",\"device.id\":42,\"device.name\":\"Van\\u0007 1\",\"timestamp\":1600000090.5,"
        "\"server.timestamp\":1600000099,\"position.latitude\":-1.5,\"position.longitude\":2,"
        "\"position.speed\":3.25,\"battery.voltage\":3.7,\"message.type\":\"R0\"}");
    cr_assert_str_eq(report.ident, "a-1");
    cr_assert_str_eq(report.name, "Van\\x07 1");
    cr_assert_eq(report.id, 42);
    cr_assert_eq(report.received, 1600000099 * SECOND);
    cr_assert_eq(report.reported, 1600000090 * SECOND + SECOND / 2);
    cr_assert(report.latitude == -1.5 && report.longitude == 2 && report.speed == 3.25 &&
              report.battery == 3.7);
    cr_assert_str_eq(report.event, "R0");
}

Test(report, what_is_no_message) {
    static const char *const wrong[] = {
        "",
        "nope",
        "[]",
        "{}",
        "{\"ident\":5}",
        "{\"ident\":\"\"}",
        ("{" IDENT),
        "\"a\"",
        "null",
        "{\"ident\":\"a b\"}",
        "{\"ident\":\"a/b\"}",
        "{\"ident\":\"a\\u001b\"}",
        "{\"ident\":\"123456789012345678901234567890123\"}",
        "{\"ident\":\"\xff\"}",
    };
    struct report report;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        cr_assert(!report_message(&report, wrong[i], strlen(wrong[i]), NOW), "%s", wrong[i]);
    char *big = malloc(300000);
    memset(big, ' ', 300000);
    memcpy(big, "{" IDENT "}", strlen("{" IDENT "}"));
    cr_assert(!report_message(&report, big, 300000, NOW));
    free(big);
}

Test(report, a_value_of_the_wrong_type_or_out_of_range_is_none) {
    struct report report = read_message(
        "{" IDENT ",\"device.id\":\"42\",\"device.name\":[1],\"timestamp\":\"x\",\"server.timestamp\":-5,"
        "\"position.latitude\":95,\"position.longitude\":\"2\",\"position.speed\":1e300,"
        "\"battery.voltage\":true,\"message.type\":6,\"alarm.event\":1,\"power.on.reason\":{}}");
    cr_assert_eq(report.id, -1);
    cr_assert_str_empty(report.name);
    cr_assert(report.received == NOW && report.reported == NOW);
    cr_assert(isnan(report.latitude) && isnan(report.longitude) && isnan(report.speed) &&
              isnan(report.battery));
    cr_assert_str_empty(report.event);
    cr_assert(!report.notable && !report.alarm);
    cr_assert_eq(read_message("{" IDENT ",\"device.id\":99999999999999999999999}").id, -1);
}

Test(report, a_clock_ahead_is_now) {
    struct report report =
        read_message("{" IDENT ",\"timestamp\":250000000000,\"server.timestamp\":1600000101}");
    cr_assert(report.received == NOW && report.reported == NOW);
}

Test(report, events) {
    static const struct {
        const char *json, *event;
        bool notable, alarm;
    } cases[] = {
        {"\"message.type\":\"R0\",\"position.valid\":true", "R0", false, false},
        {"\"message.type\":\"R0\",\"alarm.event\":true", "ALARM (R0)", true, true},
        {"\"message.type\":\"R0\",\"alarm.event\":false", "R0", false, false},
        {"\"battery.low.alarm\":true", "battery low", true, true},
        {"\"geofence.in.alarm\":true", "entered geofence", true, true},
        {"\"geofence.out.alarm\":true", "left geofence", true, true},
        {"\"engine.ignition.status\":true", "ignition on", true, false},
        {"\"engine.ignition.status\":false", "ignition off", true, false},
        {"\"power.on.status\":true", "switched on", true, false},
        {"\"power.on.status\":false", "switched off", true, false},
        {"\"battery.charging.status\":true", "charging", true, false},
        {"\"battery.charging.status\":false", "not charging", true, false},
        {"\"position.valid\":false,\"message.type\":\"RH\"", "no fix (RH)", false, false},
        {"\"power.on.reason\":\"reset\",\"message.type\":\"device\"", "power on: reset (device)", true,
         false},
        {"\"wakeup.trigger\":\"ti\\u001bmer\"", "woke up: ti\\x1bmer", true, false},
        {"\"sleep.mode\":2", "sleep mode 2", true, false},
        {"\"custom.payload\":\"\\u0000x\"", "", false, false}, // that is not valid at all
        {"\"message.buffered.status\":true,\"message.type\":\"data\"", "from memory (data)", false, false},
        {"\"engine.ignition.status\":true,\"alarm.event\":true,\"sleep.mode\":1",
         "ALARM, ignition on, sleep mode 1", true, true},
        {"\"message.type\":\"R0\",\"timestamp\":1600000000,\"server.timestamp\":1600000060", "R0", false,
         false},
        {"\"message.type\":\"R0\",\"timestamp\":1547025483", "R0, of 2019-01-09T09:18:03", false, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char json[512];
        struct report report;
        snprintf(json, sizeof json, "{" IDENT ",%s}", cases[i].json);
        if (*cases[i].event == '\0') {
            cr_assert(!report_message(&report, json, strlen(json), NOW));
            continue;
        }
        report = read_message(json);
        cr_assert_str_eq(report.event, cases[i].event);
        cr_assert(report.notable == cases[i].notable && report.alarm == cases[i].alarm, "%s", json);
    }
}

Test(report, an_event_is_bounded) {
    char json[4096];
    snprintf(json, sizeof json,
             "{" IDENT
             ",\"message.type\":\"%0500d\",\"power.on.reason\":\"%0500d\",\"custom.payload\":\"%0500d\"}",
             0, 0, 0);
    struct report report = read_message(json);
    cr_assert(strlen(report.event) < sizeof report.event);
    cr_assert(strstr(report.event, "…") != NULL);
}

Test(report, log_entries) {
    struct presence presence;
    const char *entry =
        "{" IDENT ",\"device_id\":42,\"timestamp\":1600000099,\"source\":\"1.2.3.4:5\",\"instance\":\"g\"}";
    cr_assert(report_presence(&presence, true, entry, strlen(entry), NOW));
    cr_assert_str_eq(presence.report.event, "connected, 1.2.3.4:5");
    cr_assert(presence.report.id == 42 && presence.report.received == 1600000099 * SECOND &&
              presence.connected);
    entry = "{" IDENT ",\"source\":[]}";
    cr_assert(report_presence(&presence, false, entry, strlen(entry), NOW));
    cr_assert_str_eq(presence.report.event, "disconnected");
    cr_assert(!report_presence(&presence, true, "[]", 2, NOW));
}

// --- the fleet ---

static struct report make_report(const char *ident, int64_t id, int64_t received) {
    struct report report = {.id = id,
                            .received = received * SECOND,
                            .reported = received * SECOND,
                            .latitude = NAN,
                            .longitude = NAN,
                            .speed = NAN,
                            .battery = NAN};
    strcpy(report.ident, ident);
    return report;
}

static void report_at(struct fleet *fleet, const char *ident, int64_t id, int64_t received) {
    struct report report = make_report(ident, id, received);
    fleet_report(fleet, &report);
}

static void expect_order(struct fleet *fleet, const char *idents) {
    char order[256] = "";
    for (const struct fleet_device *device = fleet_newest(fleet); device != NULL; device = device->next) {
        strcat(order, device->ident);
        strcat(order, " ");
    }
    cr_assert_str_eq(order, idents);
}

// Made up by whoever reaches a port; those that are registered stay.
Test(page_bounds, devices_without_an_id_have_a_bound) {
    struct fleet fleet = {0};
    char ident[16];
    report_at(&fleet, "van", 42, 1);
    report_at(&fleet, "busy", -1, 1);
    for (int i = 0; i < FLEET_STRANGERS_MAX + 100; i++) {
        snprintf(ident, sizeof ident, "s%d", i);
        report_at(&fleet, ident, -1, 2 + i);
        report_at(&fleet, "busy", -1, 2 + i);
    }
    cr_assert_eq(fleet.count, FLEET_STRANGERS_MAX + 1);
    cr_assert(fleet_by_ident(&fleet, "van") != NULL && fleet_by_ident(&fleet, "busy") != NULL);
    cr_assert_null(fleet_by_ident(&fleet, "s50"), "not the one that reported longest ago was forgotten");
    report_at(&fleet, ident, 43, 3 + FLEET_STRANGERS_MAX); // it gets an id
    cr_assert_eq(fleet.stranger_count, FLEET_STRANGERS_MAX - 1);
    fleet_identity(&fleet, 43, NULL);
    cr_assert_eq(fleet.count, FLEET_STRANGERS_MAX);
    fleet_free(&fleet);
    cr_assert_eq(fleet.stranger_count, 0);
}

#define FEW 1000

Test(page_bounds, the_registry_that_is_shown_has_a_bound) {
    struct listed *listed = listed_new();
    char ident[16], large[LISTED_PAYLOAD_MAX + 2];
    for (int i = 0; i < LISTED_MAX + 10; i++) {
        snprintf(ident, sizeof ident, "d%d", i);
        listed_set(listed, ident, "{ }", 3);
    }
    cr_assert_null(listed_get(listed, ident), "more than the bound are kept");
    cr_assert_str_eq(listed_get(listed, "d0"), "{}");
    memset(large, ' ', sizeof large);
    memcpy(large, "{}", 2);
    listed_set(listed, "d0", large, sizeof large);
    cr_assert_null(listed_get(listed, "d0"), "one that is too large stands for what it was before");
    cr_assert(listed_has(listed, "d0"), "it can be taken out");
    listed_set(listed, "d0", "", 0);
    cr_assert(!listed_has(listed, "d0"));
    listed_set(listed, ident, "{}", 2);
    cr_assert_str_eq(listed_get(listed, ident), "{}");
    listed_set(listed, ident, "", 0);
    cr_assert_null(listed_get(listed, ident));
    listed_free(listed);
}

Test(page_bounds, all_devices_have_a_bound) {
    struct fleet fleet = {.most = FEW};
    char ident[16];
    report_at(&fleet, "d0", 0, 1);
    fleet_by_ident(&fleet, "d0")->notes = ident;
    for (int i = 0; i < FEW + 10; i++) {
        snprintf(ident, sizeof ident, "d%d", i);
        report_at(&fleet, ident, i, 2 + i);
        report_at(&fleet, "d0", 0, 2 + i);
    }
    cr_assert_eq(fleet.count, FEW);
    cr_assert(fleet_by_ident(&fleet, "d9") == NULL && fleet_by_ident(&fleet, "d0")->notes == ident,
              "not the one heard longest ago was forgotten");
    for (int i = 0; i < FEW + 10; i++)
        fleet_connected(&fleet, FEW + 100 + i, FLEET_CONNECTED);
    cr_assert_eq(HASH_CNT(by_id, fleet.by_id), FEW);
    fleet_free(&fleet);
}

// --- commands that wait ---

static void wait_for(struct waiting *waiting, int place, int id, char *payload) {
    char name[32], text[16];
    snprintf(name, sizeof name, "devices/%d", place);
    snprintf(text, sizeof text, "%d", id);
    waiting_set(waiting, name, text, payload);
}

// Whoever may write entries must not fill the page's memory with them, or make it look through them all.
Test(page_bounds, commands_that_wait_for_a_device_have_a_bound) {
    struct waiting *waiting = waiting_new();
    for (int id = 0; id < WAITING_EACH_MAX + 10; id++)
        wait_for(waiting, 1, id, strdup("{}"));
    cr_assert_eq(waiting_count(waiting, "devices/1"), WAITING_EACH_MAX);
    wait_for(waiting, 2, 0, strdup("{}"));
    cr_assert_eq(waiting_count(waiting, "devices/2"), 1, "another device has its own");
    wait_for(waiting, 1, 0, NULL);
    wait_for(waiting, 1, 7000, strdup("{}"));
    cr_assert(waiting_has(waiting, "devices/1", "7000") && !waiting_has(waiting, "devices/1", "0"));
    waiting_free(waiting);
}

Test(page_bounds, commands_that_wait_in_all_have_a_bound) {
    struct waiting *waiting = waiting_new();
    for (int id = 0; id < WAITING_MAX; id++)
        wait_for(waiting, id / (WAITING_EACH_MAX / 2), id, strdup("{}"));
    wait_for(waiting, 7000, 0, strdup("{}"));
    cr_assert_eq(waiting_count(waiting, "devices/7000"), 0);
    wait_for(waiting, 0, 0, NULL);
    wait_for(waiting, 7000, 0, strdup("{}"));
    cr_assert_eq(waiting_count(waiting, "devices/7000"), 1, "there is room again");
    waiting_free(waiting);
}

static char *text_of_size(size_t size) {
    char *text = malloc(size + 1);
    memset(text, 'x', size);
    text[size] = '\0';
    return text;
}

Test(page_bounds, commands_that_wait_have_a_bound_in_bytes) {
    struct waiting *waiting = waiting_new();
    size_t size = 1 << 20, most = WAITING_BYTES_MAX / size;
    for (int id = 0; id < (int)most + 5; id++)
        wait_for(waiting, id, 1, text_of_size(size));
    cr_assert_eq(waiting_count(waiting, "devices/0"), 1);
    cr_assert_eq(waiting_count(waiting, "devices/64"), 0);
    wait_for(waiting, 0, 1, text_of_size(size + 1)); // it says more than it did
    cr_assert_eq(waiting_count(waiting, "devices/0"), 0);
    wait_for(waiting, 64, 1, text_of_size(size));
    cr_assert_eq(waiting_count(waiting, "devices/64"), 1, "there is room again");
    waiting_forget_all(waiting);
    wait_for(waiting, 0, 1, text_of_size(size));
    cr_assert_eq(waiting_count(waiting, "devices/0"), 1);
    waiting_free(waiting);
}

Test(fleet, newest_first) {
    struct fleet fleet = {0};
    report_at(&fleet, "a", 1, 100);
    report_at(&fleet, "b", 2, 101);
    report_at(&fleet, "c", 3, 102);
    expect_order(&fleet, "c b a ");
    report_at(&fleet, "a", 1, 103);
    expect_order(&fleet, "a c b ");
    report_at(&fleet, "b", 2, 102); // came over another gateway, later
    expect_order(&fleet, "a b c ");
    report_at(&fleet, "d", 4, 50);
    expect_order(&fleet, "a b c d ");
    cr_assert_eq(fleet.count, 4);
    fleet_free(&fleet);
}

// Longer ways than the list is walked each time.
Test(fleet, any_order_of_many_comes_out_sorted) {
    struct fleet fleet = {0};
    char ident[16];
    for (int i = 0; i < 1000; i++) {
        snprintf(ident, sizeof ident, "d%d", i);
        report_at(&fleet, ident, i, i * 7919 % 1000 + 1);
    }
    int64_t last = INT64_MAX;
    size_t count = 0;
    for (const struct fleet_device *device = fleet_newest(&fleet); device != NULL; device = device->next) {
        cr_assert(device->heard <= last);
        last = device->heard;
        count++;
    }
    cr_assert(count == 1000 && fleet.count == 1000);
    fleet_free(&fleet);
}

Test(fleet, a_late_report_does_not_move_values_back) {
    struct fleet fleet = {0};
    struct report report = make_report("a", 1, 100);
    report.speed = 50;
    fleet_report(&fleet, &report);
    report.received = 110 * SECOND;
    report.reported = 90 * SECOND;
    report.speed = 20;
    fleet_report(&fleet, &report);
    const struct fleet_device *device = fleet_by_ident(&fleet, "a");
    cr_assert(device->speed == 50 && device->heard == 110 * SECOND);
    report = make_report("a", 1, 120); // without values: those that are known stay
    fleet_report(&fleet, &report);
    cr_assert(device->speed == 50);
    fleet_free(&fleet);
}

Test(fleet, states_of_an_id_find_their_device) {
    struct fleet fleet = {0};
    struct report values = make_report("a", 7, 0);
    values.latitude = values.longitude = 5;
    fleet_connected(&fleet, 7, FLEET_CONNECTED); // before it is known who that is
    fleet_position(&fleet, 7, &values);
    fleet_battery(&fleet, 7, 3.5);
    fleet_heard(&fleet, 7, 99 * SECOND);
    cr_assert(fleet.count == 0 && fleet.connected == 0);
    expect_order(&fleet, "");
    fleet_identity(&fleet, 7, &values);
    const struct fleet_device *device = fleet_by_ident(&fleet, "a");
    cr_assert(device == fleet_by_id(&fleet, 7) && fleet.count == 1 && fleet.connected == 1);
    cr_assert(device->latitude == 5 && device->battery == 3.5 && device->heard == 99 * SECOND);
    fleet_free(&fleet);
}

Test(fleet, a_device_known_by_ident_gets_the_states_of_its_id) {
    struct fleet fleet = {0};
    struct report identity = make_report("a", 7, 0);
    report_at(&fleet, "a", -1, 100); // of the channel topic, without identity
    fleet_connected(&fleet, 7, FLEET_CONNECTED);
    fleet_battery(&fleet, 7, 3.5);
    fleet_identity(&fleet, 7, &identity);
    const struct fleet_device *device = fleet_by_ident(&fleet, "a");
    cr_assert(device->id == 7 && device->connection == FLEET_CONNECTED && fleet.count == 1);
    cr_assert(isnan(device->battery)); // what a message said is not older
    fleet_free(&fleet);
}

Test(fleet, an_id_goes_over_to_another_ident) {
    struct fleet fleet = {0};
    report_at(&fleet, "a", 7, 100);
    report_at(&fleet, "b", 7, 101);
    cr_assert(fleet_by_id(&fleet, 7) == fleet_by_ident(&fleet, "b"));
    cr_assert_eq(fleet_by_ident(&fleet, "a")->id, -1);
    report_at(&fleet, "b", 8, 102);
    cr_assert(fleet_by_id(&fleet, 7) == NULL && fleet_by_id(&fleet, 8) != NULL);
    fleet_identity(&fleet, 8, NULL); // gone
    fleet_identity(&fleet, 9, NULL); // never there
    cr_assert(fleet_by_ident(&fleet, "b") == NULL && fleet.count == 1);
    fleet_free(&fleet);
}

Test(fleet, who_is_connected_is_counted_once) {
    struct fleet fleet = {0};
    struct presence here = {.report = make_report("a", 7, 100), .connected = true, .instance = 1};
    struct presence there = {.report = make_report("a", 7, 101), .connected = true, .instance = 2};
    fleet_presence(&fleet, &here);
    fleet_connected(&fleet, 7, FLEET_CONNECTED);
    cr_assert_eq(fleet.connected, 1);
    fleet_presence(&fleet, &there);
    here.connected = false; // the first gateway lets go of it after that
    fleet_presence(&fleet, &here);
    cr_assert_eq(fleet.connected, 1);
    there.connected = false;
    fleet_presence(&fleet, &there);
    cr_assert(fleet.connected == 0 && fleet_by_id(&fleet, 7)->connection == FLEET_DISCONNECTED);
    fleet_connected(&fleet, 7, FLEET_CONNECTED);
    fleet_identity(&fleet, 7, NULL);
    cr_assert(fleet.connected == 0 && fleet.count == 0);
    fleet_free(&fleet);
}

// --- the listener ---

static struct heard {
    size_t messages, presences, odd;
    struct report last;
} heard;

static void on_message(void *context, const struct report *report) {
    heard.messages++;
    heard.last = *report;
}

static void on_presence(void *context, const struct report *report) {
    heard.presences++;
    heard.last = *report;
}

static void on_odd(void *context, const struct mqtt_received *received) {
    heard.odd++;
}

static const struct listener_handlers on_heard = {
    .message = on_message, .presence = on_presence, .not_understood = on_odd};
static struct config config = {.mqtt.topic_prefix = "p/q", .on_channels = true, .on_devices = true};

static bool take(struct listener *listener, const char *topic, const char *payload) {
    const struct mqtt_received received = {
        .topic = topic, .payload = payload, .length = strlen(payload), .retain = true};
    return listener_take(listener, &received, NOW);
}

static void expect_heard(size_t messages, size_t presences, size_t odd) {
    cr_assert(heard.messages == messages && heard.presences == presences && heard.odd == odd,
              "%zu messages, %zu presences, %zu not understood", heard.messages, heard.presences, heard.odd);
}

static void expect_filters(const char *ident, const char *wanted) {
    struct listener *listener = listener_new(&config, ident, &on_heard);
    char filters[512] = "";
    size_t count;
    const struct mqtt_subscription *subscriptions = listener_subscriptions(listener, &count);
    cr_assert_leq(count, LISTENER_SUBSCRIPTIONS_MAX);
    for (size_t i = 0; i < count; i++)
        strcat(strcat(filters, subscriptions[i].filter), " ");
    cr_assert_str_eq(filters, wanted);
    listener_free(listener);
}

#define LOGS "p/q/log/gw/devices/+/connected p/q/log/gw/devices/+/disconnected "

Test(listener, subscribes_to_what_is_published) {
    expect_filters(NULL, LOGS "p/q/message/gw/channels/+/+ p/q/message/gw/devices/+ ");
    expect_filters("a-1",
                   LOGS "p/q/message/gw/channels/+/+ p/q/message/gw/devices/+ "); // perhaps it is a name
    config.on_channels = false;
    expect_filters(NULL, LOGS "p/q/message/gw/devices/+ ");
    config.unknown_devices = UNKNOWN_CHANNEL; // those are on the channel's topic in any case
    expect_filters(NULL, LOGS "p/q/message/gw/channels/+/+ p/q/message/gw/devices/+ ");
}

Test(listener, asks_for_one_state_after_the_other_and_again_after_a_loss) {
    struct listener *listener = listener_new(&config, NULL, &on_heard);
    static const char *const filters[] = {"p/q/state/gw/devices/+",
                                          "p/q/state/gw/devices/+/last_active",
                                          "p/q/state/gw/devices/+/telemetry/server.timestamp",
                                          "p/q/state/gw/devices/+/connected",
                                          "p/q/state/gw/devices/+/telemetry/position",
                                          "p/q/state/gw/devices/+/telemetry/battery.voltage"};
    for (size_t i = 0; i < sizeof filters / sizeof filters[0]; i++) {
        cr_assert_str_eq(listener_states(listener), filters[i]);
        cr_assert_str_eq(listener_states(listener), filters[i]); // until it is subscribed to
        listener_states_asked(listener);
    }
    cr_assert_null(listener_states(listener));
    listener_lost(listener);
    cr_assert_str_eq(listener_states(listener), filters[0]);
    listener_free(listener);
}

Test(listener, a_message_on_both_topics_is_one) {
    struct listener *listener = listener_new(&config, NULL, &on_heard);
    for (size_t i = 1; i <= 2; i++) {
        cr_assert(!take(listener, "p/q/message/gw/channels/1/a-1", "{" IDENT "}"));
        cr_assert(!take(listener, "p/q/message/gw/devices/7", "{" IDENT "}"));
        expect_heard(i, 0, 0);
    }
    take(listener, "p/q/message/gw/devices/7", "{" IDENT "}");
    take(listener, "p/q/message/gw/devices/7", "{" IDENT "}"); // twice on the same topic is twice
    expect_heard(4, 0, 0);
    take(listener, "p/q/message/gw/devices/7", "[]");
    expect_heard(4, 0, 1);
    listener_free(listener);
}

Test(listener, a_connection_has_the_name_of_its_device) {
    struct listener *listener = listener_new(&config, NULL, &on_heard);
    cr_assert(take(listener, "p/q/state/gw/devices/7", "{" IDENT ",\"id\":7,\"name\":\"Van 1\"}"));
    take(listener, "p/q/log/gw/devices/7/connected", "{" IDENT ",\"device_id\":7}");
    expect_heard(0, 1, 0);
    cr_assert_str_eq(heard.last.name, "Van 1");
    cr_assert_str_eq(heard.last.event, "connected");
    cr_assert_eq(listener_fleet(listener)->connected, 1);
    take(listener, "p/q/log/gw/devices/7/disconnected", "{" IDENT ",\"device_id\":7}");
    cr_assert_str_eq(heard.last.event, "disconnected");
    cr_assert_eq(listener_fleet(listener)->connected, 0);
    listener_free(listener);
}

Test(listener, states_are_taken_until_messages_come) {
    struct listener *listener = listener_new(&config, NULL, &on_heard);
    take(listener, "p/q/state/gw/devices/7", "{" IDENT ",\"id\":7}");
    take(listener, "p/q/state/gw/devices/7/connected", "true");
    take(listener, "p/q/state/gw/devices/7/telemetry/position", "{\"latitude\":1,\"longitude\":2}");
    take(listener, "p/q/state/gw/devices/7/telemetry/battery.voltage", "3.5");
    take(listener, "p/q/state/gw/devices/7/telemetry/server.timestamp", "1600000050");
    const struct fleet_device *device = fleet_by_ident(listener_fleet(listener), "a-1");
    cr_assert(device->latitude == 1 && device->battery == 3.5 && device->heard == 1600000050 * SECOND);
    cr_assert_eq(device->connection, FLEET_CONNECTED);
    take(listener, "p/q/state/gw/devices/7/last_active", "1600000060");
    cr_assert_eq(device->heard, 1600000060 * SECOND);
    take(listener, "p/q/message/gw/devices/7", "{" IDENT ",\"device.id\":7,\"battery.voltage\":3.6}");
    take(listener, "p/q/state/gw/devices/7/telemetry/battery.voltage", "3.5");
    cr_assert(device->battery == 3.6);
    take(listener, "p/q/state/gw/devices/7/connected", "");
    cr_assert_eq(device->connection, FLEET_UNKNOWN);
    take(listener, "p/q/state/gw/devices/7", "");
    cr_assert_eq(listener_fleet(listener)->count, 0);
    expect_heard(1, 0, 0);
    listener_free(listener);
}

Test(listener, with_an_ident_other_devices_are_ignored) {
    struct listener *listener = listener_new(&config, "b", &on_heard);
    take(listener, "p/q/message/gw/devices/7", "{" IDENT "}");
    take(listener, "p/q/log/gw/devices/7/connected", "{" IDENT "}");
    take(listener, "p/q/state/gw/devices/7", "{" IDENT ",\"id\":7}");
    take(listener, "p/q/state/gw/devices/7/connected", "true");
    cr_assert_null(fleet_by_id(listener_fleet(listener), 7));
    expect_heard(0, 0, 0);
    take(listener, "p/q/message/gw/devices/8", "{\"ident\":\"b\"}");
    expect_heard(1, 0, 0);
    listener_free(listener);
}

// Its log entries say no name, and come after its identity or a message.
Test(listener, a_device_is_wanted_by_its_id_or_its_name) {
    static const char *const wanted[] = {"a-1", "7", "Van 1"};
    for (size_t i = 0; i < 3; i++) {
        heard.messages = heard.presences = 0;
        struct listener *listener = listener_new(&config, wanted[i], &on_heard);
        take(listener, "p/q/state/gw/devices/8", "{\"ident\":\"b\",\"id\":8,\"name\":\"Van 2\"}");
        take(listener, "p/q/message/gw/devices/8",
             "{\"ident\":\"b\",\"device.id\":8,\"device.name\":\"Van 2\"}");
        take(listener, "p/q/log/gw/devices/8/connected", "{\"ident\":\"b\",\"device_id\":8}");
        expect_heard(0, 0, 0);
        take(listener, "p/q/state/gw/devices/7", "{" IDENT ",\"id\":7,\"name\":\"Van 1\"}");
        take(listener, "p/q/state/gw/devices/7/connected", "true");
        take(listener, "p/q/log/gw/devices/7/connected", "{" IDENT ",\"device_id\":7}");
        take(listener, "p/q/message/gw/channels/1/a-1",
             "{" IDENT ",\"device.id\":7,\"device.name\":\"Van 1\"}");
        expect_heard(1, 1, 0);
        cr_expect_eq(listener_fleet(listener)->count, 1, "wanted '%s'", wanted[i]);
        listener_free(listener);
    }
}

Test(listener, what_is_not_understood) {
    static const struct {
        const char *topic, *payload;
    } odd[] = {{"p/q/state/gw/devices/x", "{}"},
               {"p/q/state/gw/devices/-1", "{}"},
               {"p/q/state/gw/devices/7x", "{}"},
               {"p/q/state/gw/devices/99999999999999999999", "{}"},
               {"p/q/state/gw/devices/7", "{" IDENT ",\"id\":8}"},
               {"p/q/state/gw/devices/7", "nope"},
               {"p/q/state/gw/devices/7/connected", "yes"},
               {"p/q/state/gw/devices/7/telemetry/position", "5"},
               {"p/q/log/gw/devices/7/connected", "{}"}};
    struct listener *listener = listener_new(&config, NULL, &on_heard);
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        take(listener, odd[i].topic, odd[i].payload);
        expect_heard(0, 0, i + 1);
    }
    cr_assert_eq(listener_fleet(listener)->count, 0);
    listener_free(listener);
}

// --- the view ---

Test(view, lines) {
    struct line line;
    struct report report = read_message(
        "{" IDENT
        ",\"device.name\":\"Bär\",\"position.latitude\":-22.638271,\"position.longitude\":114.02922,"
        "\"position.speed\":62.14,\"battery.voltage\":3.744,\"message.type\":\"R0\"}");
    view_line(&line, &report);
    cr_assert_str_eq(line.text, "2020-09-13T12:28:20  a-1              Bär           -22.63827,114.02922 "
                                "   62 km/h   3.74 V  R0");
    report = read_message("{" IDENT ",\"device.name\":\"a-1\"}");
    view_line(&line, &report);
    cr_assert_str_eq(line.text, "2020-09-13T12:28:20  a-1              -             -                    "
                                "        -        -  -");
}

// The screen without its sequences, lines ended by '\n'.
static struct view_choice choice;

static const char *screen(struct fleet *fleet, const struct view_status *status, int rows, int columns) {
    static char plain[8192];
    char *text, *out = plain;
    size_t length;
    FILE *memory = open_memstream(&text, &length);
    view_screen(memory, fleet, status, &choice, rows, columns, NOW);
    fclose(memory);
    for (const char *in = text; *in != '\0'; in++) {
        if (*in == '\033') {
            in += 1 + strspn(in + 1, "[0123456789;");
            cr_assert(strchr("HJKm", *in) != NULL, "sequence \\e…%c", *in);
        } else if (*in != '\r') {
            *out++ = *in;
        }
    }
    *out = '\0';
    free(text);
    return plain;
}

static const struct view_status connected = {.broker = "b:1883", .state = "connected", .rate = 1.5};

Test(view, a_screen) {
    struct fleet fleet = {0};
    struct report report = read_message(
        "{" IDENT
        ",\"device.id\":1,\"device.name\":\"Van 1\",\"server.timestamp\":1600000000,\"alarm.event\":true}");
    fleet_report(&fleet, &report);
    report =
        read_message("{" IDENT ",\"device.id\":1,\"server.timestamp\":1600000088,\"position.latitude\":1,"
                     "\"position.longitude\":2,\"position.speed\":3,\"message.type\":\"R0\"}");
    fleet_report(&fleet, &report);
    fleet_connected(&fleet, 1, FLEET_CONNECTED);
    report = make_report("b", 2, 0);
    fleet_identity(&fleet, 2, &report);
    cr_assert_str_eq(
        screen(&fleet, &connected, 10, 112),
        "b:1883: connected  2 devices, 1 connected  1.5 messages/s                                           "
        "            \n"
        "   AGO  IDENT            NAME   CONN     SPEED  BATTERY  POSITION              LAST EVENT\n"
        "  12 s  a-1              Van 1  on      3 km/h        -  1.00000,2.00000       R0; ALARM 1 min ago\n"
        "     -  b                -      -            -        -  -                     -\n");
    fleet_free(&fleet);
}

Test(view, a_screen_of_nothing) {
    struct fleet fleet = {0};
    struct view_status status = {
        .broker = "b:1", .state = "connecting", .note = "refused", .device = "a", .odd = 3};
    cr_assert_str_eq(screen(&fleet, &status, 10, 20),
                     "b:1: connecting  0 d\nrefused\nNothing has come fro\n");
    status.device = status.note = NULL;
    cr_assert(strstr(screen(&fleet, &status, 3, 99), "  3 not understood ") != NULL);
    cr_assert(strstr(screen(&fleet, &status, 3, 99), "\nNothing has come yet.\n") != NULL);
}

// Whatever the size, no more lines and no wider ones than there is room.
Test(view, a_screen_fits) {
    struct fleet fleet = {0};
    char ident[16];
    for (int i = 0; i < 30; i++) {
        snprintf(ident, sizeof ident, "d%d", i);
        struct report report = make_report(ident, i, 1000 + i);
        strcpy(report.name, "東京都 ä very long name of a van");
        fleet_report(&fleet, &report);
    }
    for (int rows = 1; rows < 40; rows++) {
        for (int columns = 1; columns < 130; columns += 3) {
            char *text = strdup(screen(&fleet, &connected, rows, columns));
            int lines = 0;
            for (char *rest = text, *line; (line = strsep(&rest, "\n")) != NULL;) {
                cr_assert(line_columns(line) <= columns, "%d columns: %s", columns, line);
                lines += *line != '\0' || rest != NULL;
            }
            free(text);
            cr_assert_eq(lines, rows < 32 ? rows : 32);
        }
    }
    cr_assert(strstr(screen(&fleet, &connected, 12, 80), "\n1 to 9 of 30; ? shows the keys") != NULL);
    cr_assert(strstr(screen(&fleet, &connected, 32, 80), "keys") == NULL);
    fleet_free(&fleet);
}

// The first column of the rows on the screen, which begin below the titles.
static const char *idents(struct fleet *fleet, int rows) {
    static char list[256];
    char *text = strdup(screen(fleet, &connected, rows, 100)), *rest = text, *line;
    int at = 0;
    *list = '\0';
    while ((line = strsep(&rest, "\n")) != NULL)
        if (at++ >= 2 && strlen(line) > 8 && strstr(line, " of ") == NULL)
            sprintf(list + strlen(list), "%.*s ", (int)strcspn(line + 8, " "), line + 8);
    free(text);
    return list;
}

Test(view, is_ordered_by_each_column) {
    static const struct {
        enum order order;
        const char *forward, *backward;
    } rows[] = {
        {ORDER_HEARD, "c b a d ", "a b c d "}, {ORDER_IDENT, "a b c d ", "d c b a "},
        {ORDER_NAME, "c a b d ", "a c b d "},  {ORDER_CONNECTION, "b a c d ", "a b c d "},
        {ORDER_SPEED, "a c b d ", "c a b d "}, {ORDER_BATTERY, "b a c d ", "a b c d "},
    };
    struct fleet fleet = {0};
    static const struct {
        const char *ident, *name;
        double speed, battery;
    } devices[] = {{"a", "Z", 90, 4}, {"b", "b", NAN, 3.5}, {"c", "A", 10, NAN}};
    for (int i = 0; i < 3; i++) {
        struct report report = make_report(devices[i].ident, i, NOW / SECOND - 60 + i);
        strcpy(report.name, devices[i].name);
        report.speed = devices[i].speed;
        report.battery = devices[i].battery;
        fleet_report(&fleet, &report);
    }
    struct report silent = make_report("d", 3, 0);
    silent.speed = silent.battery = NAN;
    fleet_identity(&fleet, 3, &silent);
    fleet_connected(&fleet, 0, FLEET_DISCONNECTED);
    fleet_connected(&fleet, 1, FLEET_CONNECTED);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        choice = (struct view_choice){.order = rows[i].order};
        cr_expect_str_eq(idents(&fleet, 10), rows[i].forward, "order %zu: %s", i, idents(&fleet, 10));
        choice.reversed = true;
        cr_expect_str_eq(idents(&fleet, 10), rows[i].backward, "order %zu reversed: %s", i,
                         idents(&fleet, 10));
    }
    cr_expect(strstr(screen(&fleet, &connected, 10, 100), "  by BATTERY, reversed") != NULL);
    fleet_free(&fleet);
}

Test(view, scrolls_no_further_than_to_the_last) {
    struct fleet fleet = {0};
    for (int i = 0; i < 9; i++) {
        char ident[2] = {(char)('1' + i), '\0'};
        struct report report = make_report(ident, i, NOW / SECOND);
        fleet_report(&fleet, &report);
    }
    choice = (struct view_choice){.order = ORDER_IDENT, .first = 3};
    cr_expect_str_eq(idents(&fleet, 7), "4 5 6 7 ");
    cr_expect_eq(choice.page, 4);
    cr_expect(strstr(screen(&fleet, &connected, 7, 100), "\n4 to 7 of 9; ?") != NULL);
    choice.first = SIZE_MAX;
    cr_expect_str_eq(idents(&fleet, 7), "6 7 8 9 ");
    cr_expect_eq(choice.first, 5);
    cr_expect_str_eq(idents(&fleet, 30), "1 2 3 4 5 6 7 8 9 ");
    cr_expect_eq(choice.first, 0);
    choice.help = true;
    cr_expect(strstr(screen(&fleet, &connected, 20, 100), "reverse the order") != NULL);
    fleet_free(&fleet);
}

Test(keys, are_told_from_sequences_that_nobody_knows) {
    const char *bytes = "j\033[A\033[6~\033OF\033[1;5Aq\033[200~s\033";
    static const enum key keys[] = {KEY_DOWN, KEY_UP,    KEY_PAGE_DOWN, KEY_LAST,  KEY_OTHER,
                                    KEY_QUIT, KEY_OTHER, KEY_ORDER,     KEY_OTHER, KEY_NONE};
    size_t count = strlen(bytes);
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        cr_expect_eq(key_next(&bytes, &count), keys[i], "key %zu", i);
}
