// What `trackbus watch` makes of messages, states and texts from outside.
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gateway/fleet/fleet.h"
#include "gateway/fleet/report.h"
#include "gateway/watch/text.h"
#include "gateway/watch/view.h"

#define SECOND INT64_C(1000000)
#define NOW    (1600000100 * SECOND) // 2020-09-13T12:28:20 UTC

static void set_up(void) {
    setenv("TZ", "UTC", 1);
    tzset();
    watch_text_setup();
}

TestSuite(watch_text, .init = set_up);
TestSuite(watch_report, .init = set_up);
TestSuite(watch_fleet, .init = set_up);
TestSuite(watch_view, .init = set_up);

// --- texts ---

Test(watch_text, what_a_terminal_would_obey_is_escaped) {
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
    };
    char out[128];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        cr_assert_str_eq(watch_clean(cases[i].text, strlen(cases[i].text), out, sizeof out), cases[i].clean);
    cr_assert_str_eq(watch_clean("a\0b", 3, out, sizeof out), "a\\x00b");
}

Test(watch_text, clean_text_is_cut_where_the_memory_ends) {
    char out[20], text[100];
    memset(text, 'x', sizeof text);
    cr_assert_str_eq(watch_clean(text, sizeof text, out, sizeof out), "xxxxxxxxx…");
    memset(text, 0x1b, sizeof text);
    cr_assert_str_eq(watch_clean(text, sizeof text, out, sizeof out), "\\x1b\\x1b\\x1b…");
}

Test(watch_text, cells_have_their_width) {
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
        struct watch_line line = {.length = 0};
        watch_cell(&line, cases[i].text, cases[i].columns);
        cr_assert_str_eq(line.text, cases[i].cell);
        cr_assert_eq(line.length, strlen(cases[i].cell));
    }
}

Test(watch_text, a_line_is_cut_between_characters) {
    static const char *const cuts[] = {"", "a", "aä", "aä", "aä東", "aä東b", "aä東b"};
    for (int i = 0; i < 7; i++) {
        struct watch_line line = {.length = 0};
        watch_add(&line, "aä東b");
        watch_cut(&line, i);
        cr_assert_str_eq(line.text, cuts[i]);
    }
}

Test(watch_text, a_line_takes_no_more_than_it_holds) {
    struct watch_line line = {.length = 0};
    for (int i = 0; i < 1000; i++)
        watch_add(&line, "äöü");
    cr_assert_eq(line.length, sizeof line.text / 6 * 6 - (sizeof line.text % 6 == 0 ? 6 : 0));
    cr_assert_eq(strlen(line.text), line.length);
}

Test(watch_text, times_and_ages) {
    static const struct {
        int64_t seconds;
        const char *age;
    } cases[] = {{-5, "0 s"},   {0, "0 s"},      {59, "59 s"},   {60, "1 min"},         {3599, "59 min"},
                 {3600, "1 h"}, {86399, "23 h"}, {86400, "1 d"}, {86400 * 400, "400 d"}};
    char out[WATCH_TIME_MAX];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        cr_assert_str_eq(watch_age(cases[i].seconds * SECOND, out), cases[i].age);
    cr_assert_str_eq(watch_time(NOW + 999999, out), "2020-09-13T12:28:20");
}

// --- messages ---

static struct watch_report read_message(const char *json) {
    struct watch_report report;
    cr_assert(watch_report_message(&report, json, strlen(json), NOW), "not understood: %s", json);
    return report;
}

#define IDENT "\"ident\":\"a-1\""

Test(watch_report, a_message) {
    struct watch_report report = read_message(
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

Test(watch_report, what_is_no_message) {
    static const char *const wrong[] = {
        "",
        "nope",
        "[]",
        "{}",
        "{\"ident\":5}",
        "{\"ident\":\"\"}",
        "{" IDENT,
        "\"a\"",
        "null",
        "{\"ident\":\"a b\"}",
        "{\"ident\":\"a/b\"}",
        "{\"ident\":\"a\\u001b\"}",
        "{\"ident\":\"123456789012345678901234567890123\"}",
        "{\"ident\":\"\xff\"}",
    };
    struct watch_report report;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        cr_assert(!watch_report_message(&report, wrong[i], strlen(wrong[i]), NOW), "%s", wrong[i]);
    char *big = malloc(300000);
    memset(big, ' ', 300000);
    memcpy(big, "{" IDENT "}", strlen("{" IDENT "}"));
    cr_assert(!watch_report_message(&report, big, 300000, NOW));
    free(big);
}

Test(watch_report, a_value_of_the_wrong_type_or_out_of_range_is_none) {
    struct watch_report report = read_message(
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

Test(watch_report, a_clock_ahead_is_now) {
    struct watch_report report =
        read_message("{" IDENT ",\"timestamp\":250000000000,\"server.timestamp\":1600000101}");
    cr_assert(report.received == NOW && report.reported == NOW);
}

Test(watch_report, events) {
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
        struct watch_report report;
        snprintf(json, sizeof json, "{" IDENT ",%s}", cases[i].json);
        if (*cases[i].event == '\0') {
            cr_assert(!watch_report_message(&report, json, strlen(json), NOW));
            continue;
        }
        report = read_message(json);
        cr_assert_str_eq(report.event, cases[i].event);
        cr_assert(report.notable == cases[i].notable && report.alarm == cases[i].alarm, "%s", json);
    }
}

Test(watch_report, an_event_is_bounded) {
    char json[4096];
    snprintf(json, sizeof json,
             "{" IDENT
             ",\"message.type\":\"%0500d\",\"power.on.reason\":\"%0500d\",\"custom.payload\":\"%0500d\"}",
             0, 0, 0);
    struct watch_report report = read_message(json);
    cr_assert(strlen(report.event) < sizeof report.event);
    cr_assert(strstr(report.event, "…") != NULL);
}

Test(watch_report, log_entries) {
    struct watch_presence presence;
    const char *entry =
        "{" IDENT ",\"device_id\":42,\"timestamp\":1600000099,\"source\":\"1.2.3.4:5\",\"instance\":\"g\"}";
    cr_assert(watch_report_presence(&presence, true, entry, strlen(entry), NOW));
    cr_assert_str_eq(presence.report.event, "connected, 1.2.3.4:5");
    cr_assert(presence.report.id == 42 && presence.report.received == 1600000099 * SECOND &&
              presence.connected);
    entry = "{" IDENT ",\"source\":[]}";
    cr_assert(watch_report_presence(&presence, false, entry, strlen(entry), NOW));
    cr_assert_str_eq(presence.report.event, "disconnected");
    cr_assert(!watch_report_presence(&presence, true, "[]", 2, NOW));
}

// --- the fleet ---

static struct watch_report make_report(const char *ident, int64_t id, int64_t received) {
    struct watch_report report = {.id = id,
                                  .received = received * SECOND,
                                  .reported = received * SECOND,
                                  .latitude = NAN,
                                  .longitude = NAN,
                                  .speed = NAN,
                                  .battery = NAN};
    strcpy(report.ident, ident);
    return report;
}

static void report_at(struct watch_fleet *fleet, const char *ident, int64_t id, int64_t received) {
    struct watch_report report = make_report(ident, id, received);
    watch_fleet_report(fleet, &report);
}

static void expect_order(struct watch_fleet *fleet, const char *idents) {
    char order[256] = "";
    for (const struct watch_device *device = watch_fleet_newest(fleet); device != NULL;
         device = device->next) {
        strcat(order, device->ident);
        strcat(order, " ");
    }
    cr_assert_str_eq(order, idents);
}

Test(watch_fleet, newest_first) {
    struct watch_fleet fleet = {0};
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
    watch_fleet_free(&fleet);
}

// Longer ways than the list is walked each time.
Test(watch_fleet, any_order_of_many_comes_out_sorted) {
    struct watch_fleet fleet = {0};
    char ident[16];
    for (int i = 0; i < 1000; i++) {
        snprintf(ident, sizeof ident, "d%d", i);
        report_at(&fleet, ident, i, i * 7919 % 1000 + 1);
    }
    int64_t last = INT64_MAX;
    size_t count = 0;
    for (const struct watch_device *device = watch_fleet_newest(&fleet); device != NULL;
         device = device->next) {
        cr_assert(device->heard <= last);
        last = device->heard;
        count++;
    }
    cr_assert(count == 1000 && fleet.count == 1000);
    watch_fleet_free(&fleet);
}

Test(watch_fleet, a_late_report_does_not_move_values_back) {
    struct watch_fleet fleet = {0};
    struct watch_report report = make_report("a", 1, 100);
    report.speed = 50;
    watch_fleet_report(&fleet, &report);
    report.received = 110 * SECOND;
    report.reported = 90 * SECOND;
    report.speed = 20;
    watch_fleet_report(&fleet, &report);
    const struct watch_device *device = watch_fleet_by_ident(&fleet, "a");
    cr_assert(device->speed == 50 && device->heard == 110 * SECOND);
    report = make_report("a", 1, 120); // without values: those that are known stay
    watch_fleet_report(&fleet, &report);
    cr_assert(device->speed == 50);
    watch_fleet_free(&fleet);
}

Test(watch_fleet, states_of_an_id_find_their_device) {
    struct watch_fleet fleet = {0};
    struct watch_report values = make_report("a", 7, 0);
    values.latitude = values.longitude = 5;
    watch_fleet_connected(&fleet, 7, WATCH_CONNECTED); // before it is known who that is
    watch_fleet_position(&fleet, 7, &values);
    watch_fleet_battery(&fleet, 7, 3.5);
    watch_fleet_heard(&fleet, 7, 99 * SECOND);
    cr_assert(fleet.count == 0 && fleet.connected == 0);
    expect_order(&fleet, "");
    watch_fleet_identity(&fleet, 7, &values);
    const struct watch_device *device = watch_fleet_by_ident(&fleet, "a");
    cr_assert(device == watch_fleet_by_id(&fleet, 7) && fleet.count == 1 && fleet.connected == 1);
    cr_assert(device->latitude == 5 && device->battery == 3.5 && device->heard == 99 * SECOND);
    watch_fleet_free(&fleet);
}

Test(watch_fleet, a_device_known_by_ident_gets_the_states_of_its_id) {
    struct watch_fleet fleet = {0};
    struct watch_report identity = make_report("a", 7, 0);
    report_at(&fleet, "a", -1, 100); // of the channel topic, without identity
    watch_fleet_connected(&fleet, 7, WATCH_CONNECTED);
    watch_fleet_battery(&fleet, 7, 3.5);
    watch_fleet_identity(&fleet, 7, &identity);
    const struct watch_device *device = watch_fleet_by_ident(&fleet, "a");
    cr_assert(device->id == 7 && device->connection == WATCH_CONNECTED && fleet.count == 1);
    cr_assert(isnan(device->battery)); // what a message said is not older
    watch_fleet_free(&fleet);
}

Test(watch_fleet, an_id_goes_over_to_another_ident) {
    struct watch_fleet fleet = {0};
    report_at(&fleet, "a", 7, 100);
    report_at(&fleet, "b", 7, 101);
    cr_assert(watch_fleet_by_id(&fleet, 7) == watch_fleet_by_ident(&fleet, "b"));
    cr_assert_eq(watch_fleet_by_ident(&fleet, "a")->id, -1);
    report_at(&fleet, "b", 8, 102);
    cr_assert(watch_fleet_by_id(&fleet, 7) == NULL && watch_fleet_by_id(&fleet, 8) != NULL);
    watch_fleet_identity(&fleet, 8, NULL); // gone
    watch_fleet_identity(&fleet, 9, NULL); // never there
    cr_assert(watch_fleet_by_ident(&fleet, "b") == NULL && fleet.count == 1);
    watch_fleet_free(&fleet);
}

Test(watch_fleet, who_is_connected_is_counted_once) {
    struct watch_fleet fleet = {0};
    struct watch_presence here = {.report = make_report("a", 7, 100), .connected = true, .instance = 1};
    struct watch_presence there = {.report = make_report("a", 7, 101), .connected = true, .instance = 2};
    watch_fleet_presence(&fleet, &here);
    watch_fleet_connected(&fleet, 7, WATCH_CONNECTED);
    cr_assert_eq(fleet.connected, 1);
    watch_fleet_presence(&fleet, &there);
    here.connected = false; // the first gateway lets go of it after that
    watch_fleet_presence(&fleet, &here);
    cr_assert_eq(fleet.connected, 1);
    there.connected = false;
    watch_fleet_presence(&fleet, &there);
    cr_assert(fleet.connected == 0 && watch_fleet_by_id(&fleet, 7)->connection == WATCH_DISCONNECTED);
    watch_fleet_connected(&fleet, 7, WATCH_CONNECTED);
    watch_fleet_identity(&fleet, 7, NULL);
    cr_assert(fleet.connected == 0 && fleet.count == 0);
    watch_fleet_free(&fleet);
}

// --- the view ---

Test(watch_view, lines) {
    struct watch_line line;
    struct watch_report report = read_message(
        "{" IDENT
        ",\"device.name\":\"Bär\",\"position.latitude\":-22.638271,\"position.longitude\":114.02922,"
        "\"position.speed\":62.14,\"battery.voltage\":3.744,\"message.type\":\"R0\"}");
    watch_view_line(&line, &report);
    cr_assert_str_eq(line.text, "2020-09-13T12:28:20  a-1              Bär           -22.63827,114.02922 "
                                "   62 km/h   3.74 V  R0");
    report = read_message("{" IDENT ",\"device.name\":\"a-1\"}");
    watch_view_line(&line, &report);
    cr_assert_str_eq(line.text, "2020-09-13T12:28:20  a-1              -             -                    "
                                "        -        -  -");
}

// The screen without its sequences, lines ended by '\n'.
static const char *screen(struct watch_fleet *fleet, const struct watch_status *status, int rows,
                          int columns) {
    static char plain[8192];
    char *text, *out = plain;
    size_t length;
    FILE *memory = open_memstream(&text, &length);
    watch_view_screen(memory, fleet, status, rows, columns, NOW);
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

static const struct watch_status connected = {.broker = "b:1883", .state = "connected", .rate = 1.5};

Test(watch_view, a_screen) {
    struct watch_fleet fleet = {0};
    struct watch_report report = read_message(
        "{" IDENT
        ",\"device.id\":1,\"device.name\":\"Van 1\",\"server.timestamp\":1600000000,\"alarm.event\":true}");
    watch_fleet_report(&fleet, &report);
    report =
        read_message("{" IDENT ",\"device.id\":1,\"server.timestamp\":1600000088,\"position.latitude\":1,"
                     "\"position.longitude\":2,\"position.speed\":3,\"message.type\":\"R0\"}");
    watch_fleet_report(&fleet, &report);
    watch_fleet_connected(&fleet, 1, WATCH_CONNECTED);
    report = make_report("b", 2, 0);
    watch_fleet_identity(&fleet, 2, &report);
    cr_assert_str_eq(
        screen(&fleet, &connected, 10, 112),
        "b:1883: connected  2 devices, 1 connected  1.5 messages/s                                           "
        "            \n"
        "   AGO  IDENT            NAME   CONN     SPEED  BATTERY  POSITION              LAST EVENT\n"
        "  12 s  a-1              Van 1  on      3 km/h        -  1.00000,2.00000       R0; ALARM 1 min ago\n"
        "     -  b                -      -            -        -  -                     -\n");
    watch_fleet_free(&fleet);
}

Test(watch_view, a_screen_of_nothing) {
    struct watch_fleet fleet = {0};
    struct watch_status status = {
        .broker = "b:1", .state = "connecting", .note = "refused", .ident = "a", .odd = 3};
    cr_assert_str_eq(screen(&fleet, &status, 10, 20),
                     "b:1: connecting  0 d\nrefused\nNothing has come fro\n");
    status.ident = status.note = NULL;
    cr_assert(strstr(screen(&fleet, &status, 3, 99), "  3 not understood ") != NULL);
    cr_assert(strstr(screen(&fleet, &status, 3, 99), "\nNothing has come yet.\n") != NULL);
}

// Whatever the size, no more lines and no wider ones than there is room.
Test(watch_view, a_screen_fits) {
    struct watch_fleet fleet = {0};
    char ident[16];
    for (int i = 0; i < 30; i++) {
        snprintf(ident, sizeof ident, "d%d", i);
        struct watch_report report = make_report(ident, i, 1000 + i);
        strcpy(report.name, "東京都 ä very long name of a van");
        watch_fleet_report(&fleet, &report);
    }
    for (int rows = 1; rows < 40; rows++) {
        for (int columns = 1; columns < 130; columns += 3) {
            char *text = strdup(screen(&fleet, &connected, rows, columns));
            int lines = 0;
            for (char *rest = text, *line; (line = strsep(&rest, "\n")) != NULL;) {
                cr_assert(watch_columns(line) <= columns, "%d columns: %s", columns, line);
                lines += *line != '\0' || rest != NULL;
            }
            free(text);
            cr_assert_eq(lines, rows < 32 ? rows : 32);
        }
    }
    cr_assert(strstr(screen(&fleet, &connected, 12, 80), "\n… and 21 more, heard before these") != NULL);
    cr_assert(strstr(screen(&fleet, &connected, 32, 80), "more") == NULL);
    watch_fleet_free(&fleet);
}
