// The message, its JSON, decimals and UTF-8.
#include <criterion/criterion.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "schema/message.h"
#include "schema/utf8.h"

static struct message message;
static char json[MESSAGE_JSON_MAX];

static struct decimal decimal_of(const char *text) {
    struct decimal value = {.mantissa = -1};
    cr_assert(decimal_parse(text, strlen(text), &value), "%s", text);
    return value;
}

static void set_text(enum field field, const char *text) {
    cr_assert(message_set_text(&message, field, text, strlen(text)), "%s", field_table[field].name);
}

static void check_json(const char *expected) {
    size_t length = message_write_json(&message, json, sizeof json);
    cr_assert_str_eq(json, expected);
    cr_assert_eq(length, strlen(expected));
}

// What jansson reads from the message; for the caller to free.
static json_t *read_back(void) {
    json_error_t error;
    size_t length = message_write_json(&message, json, sizeof json);
    json_t *object = json_loadb(json, length, JSON_REJECT_DUPLICATES, &error);
    cr_assert(object != NULL, "%s at %d", error.text, error.position);
    return object;
}

static void check_removed(size_t count, enum field field, const char *text, const char *reason) {
    cr_assert_eq(message.removed_count, count);
    const struct message_removed *last = &message.removed[count - 1];
    cr_assert_eq(last->field, field);
    cr_assert_str_eq(last->text, text);
    cr_assert_str_eq(last->reason, reason);
}

Test(message, empty) {
    message_reset(&message);
    check_json("{}");
}

Test(message, keys_are_in_alphabetical_order_however_they_were_set) {
    message_reset(&message);
    message_set_integer(&message, FIELD_TIMESTAMP, 1547025483);
    message_set_boolean(&message, FIELD_POSITION_VALID, true);
    set_text(FIELD_IDENT, "1");
    message_set_number(&message, FIELD_BATTERY_VOLTAGE, decimal_of("3.744"));
    message_set_boolean(&message, FIELD_ALARM_EVENT, false);
    check_json("{\"alarm.event\":false,\"battery.voltage\":3.744,\"ident\":\"1\",\"position.valid\":true,"
               "\"timestamp\":1547025483}");
}

static void set_something(enum field field) {
    const struct field_info *info = &field_table[field];
    if (info->list != FIELD_NONE)
        return;
    if (info->indexed && info->type == FIELD_STRING)
        message_set_text_at(&message, field, "7", "x", 1);
    else if (info->indexed)
        message_set_number_at(&message, field, "7", decimal_integer(info->minimum));
    else if (info->type == FIELD_NUMBER)
        message_set_integer(&message, field, info->maximum);
    else if (info->type == FIELD_BOOLEAN)
        message_set_boolean(&message, field, true);
    else if (info->type == FIELD_STRING)
        set_text(field, "x");
    else
        message_add_list(&message, field);
}

Test(message, every_field_of_the_dictionary_in_order) {
    const char *key, *last = "";
    json_t *value;
    size_t plain = 0;
    message_reset(&message);
    for (unsigned field = FIELD_COUNT - 1; field > FIELD_NONE; field--) {
        plain += field_table[field].list == FIELD_NONE;
        set_something((enum field)field);
    }
    cr_assert_eq(message.removed_count, 0);
    json_t *object = read_back();
    cr_assert_eq(json_object_size(object), plain);
    json_object_foreach(object, key, value) {
        cr_assert(strcmp(last, key) < 0, "%s does not come before %s", last, key);
        last = key;
    }
    json_decref(object);
}

Test(message, equals_what_jansson_makes) {
    message_reset(&message);
    set_text(FIELD_IDENT, "caf\xc3\xa9 \"\\/\b\f\n\r\t\x01\x1f\x7f \xf0\x9f\x9a\x97");
    message_set_number(&message, FIELD_POSITION_LATITUDE, decimal_of("-22.63827"));
    message_set_boolean(&message, FIELD_POSITION_VALID, false);
    message_set_number_at(&message, FIELD_TIRE_PRESSURE, "1", decimal_of("2.1"));
    message_add_list(&message, FIELD_GSM_CELLS);
    json_t *object = read_back();
    json_t *expected = json_pack(
        "{s:s, s:f, s:b, s:f, s:[]}", "ident", "caf\xc3\xa9 \"\\/\b\f\n\r\t\x01\x1f\x7f \xf0\x9f\x9a\x97",
        "position.latitude", -22.63827, "position.valid", 0, "tire.pressure.1", 2.1, "gsm.cells");
    cr_assert(json_equal(object, expected), "%s", json);
    json_decref(expected);
    json_decref(object);
}

Test(message, quotes_and_control_characters_are_escaped) {
    message_reset(&message);
    message_set_text(&message, FIELD_IDENT, "a\"b\\c\n\x1f\x7f/", 9);
    check_json("{\"ident\":\"a\\\"b\\\\c\\u000a\\u001f\\u007f/\"}");
}

Test(message, index_names) {
    message_reset(&message);
    message_set_number_at(&message, FIELD_TIRE_PRESSURE, "2", decimal_of("2.20"));
    message_set_number_at(&message, FIELD_TIRE_PRESSURE, "10", decimal_of("10"));
    message_set_number_at(&message, FIELD_TIRE_PRESSURE, "1", decimal_of("2.1"));
    message_set_text_at(&message, FIELD_CAN_DATA_FRAME, "18FEF100", "00ff", 4);
    message_set_number_at(&message, FIELD_TIRE_TEMPERATURE, "1", decimal_of("-4"));
    check_json("{\"can.data.frame.18FEF100\":\"00ff\",\"tire.pressure.1\":2.1,\"tire.pressure.10\":10,"
               "\"tire.pressure.2\":2.2,\"tire.temperature.1\":-4}");
}

Test(message, a_value_is_replaced) {
    message_reset(&message);
    message_set_integer(&message, FIELD_EVENT_ENUM, 1);
    message_set_integer(&message, FIELD_EVENT_ENUM, 2);
    set_text(FIELD_IDENT, "first");
    set_text(FIELD_IDENT, "2nd");
    message_set_boolean(&message, FIELD_ALARM_EVENT, true);
    message_set_boolean(&message, FIELD_ALARM_EVENT, false);
    message_set_text_at(&message, FIELD_CUSTOM_ATTRIBUTE, "1", "aa", 2);
    message_set_text_at(&message, FIELD_CUSTOM_ATTRIBUTE, "1", "ff", 2);
    message_set_number_at(&message, FIELD_TIRE_PRESSURE, "11", decimal_of("5"));
    message_set_number_at(&message, FIELD_TIRE_PRESSURE, "11", decimal_of("6"));
    check_json("{\"alarm.event\":false,\"custom.attribute.1\":\"ff\",\"event.enum\":2,\"ident\":\"2nd\","
               "\"tire.pressure.11\":6}");
}

Test(message, reset_forgets_all) {
    message_reset(&message);
    set_something(FIELD_IDENT);
    message_add_list(&message, FIELD_GSM_CELLS);
    message_add_row(&message, FIELD_GSM_CELLS);
    message_set_integer(&message, FIELD_EVENT_ENUM, -1);
    message_reset(&message);
    cr_assert_eq(message.removed_count, 0);
    cr_assert_null(message_get(&message, FIELD_IDENT));
    check_json("{}");
}

Test(message, get) {
    message_reset(&message);
    message_set_integer(&message, FIELD_EVENT_ENUM, 7);
    cr_assert_null(message_get(&message, FIELD_IDENT));
    cr_assert_eq(message_get(&message, FIELD_EVENT_ENUM)->number.mantissa, 7);
}

Test(message, lists) {
    message_reset(&message);
    message_add_list(&message, FIELD_WIFI_ACCESS_POINTS);
    message_add_row(&message, FIELD_WIFI_ACCESS_POINTS);
    message_set_integer(&message, FIELD_WIFI_ACCESS_POINTS_RSSI, -91);
    set_text(FIELD_WIFI_ACCESS_POINTS_MAC, "6a:db:54:5a:79:6d");
    message_add_list(&message, FIELD_GSM_CELLS);
    message_add_row(&message, FIELD_WIFI_ACCESS_POINTS);
    set_text(FIELD_WIFI_ACCESS_POINTS_SSID, "x");
    message_set_integer(&message, FIELD_EVENT_ENUM, 3);
    check_json("{\"event.enum\":3,\"gsm.cells\":[],\"wifi.access.points\":"
               "[{\"mac\":\"6a:db:54:5a:79:6d\",\"rssi\":-91},{\"ssid\":\"x\"}]}");
}

Test(message, a_member_is_replaced_within_its_row_only) {
    message_reset(&message);
    message_add_list(&message, FIELD_GSM_CELLS);
    message_add_row(&message, FIELD_GSM_CELLS);
    message_set_integer(&message, FIELD_GSM_CELLS_LAC, 1);
    message_set_integer(&message, FIELD_GSM_CELLS_LAC, 2);
    message_add_row(&message, FIELD_GSM_CELLS);
    message_set_integer(&message, FIELD_GSM_CELLS_LAC, 3);
    message_set_integer(&message, FIELD_GSM_CELLS_MNC, 4);
    message_set_integer(&message, FIELD_GSM_CELLS_LAC, 5);
    check_json("{\"gsm.cells\":[{\"lac\":2},{\"lac\":5,\"mnc\":4}]}");
}

Test(message, a_row_without_members_is_no_row) {
    message_reset(&message);
    message_add_list(&message, FIELD_GSM_CELLS);
    message_add_row(&message, FIELD_GSM_CELLS);
    check_json("{\"gsm.cells\":[]}");
    message_add_row(&message, FIELD_GSM_CELLS);
    message_set_integer(&message, FIELD_GSM_CELLS_LAC, 3);
    check_json("{\"gsm.cells\":[{\"lac\":3}]}");
}

Test(message, out_of_range_is_removed_and_noted) {
    message_reset(&message);
    cr_assert(message_set_number(&message, FIELD_POSITION_LATITUDE, decimal_of("90.000000000")));
    cr_assert(!message_set_number(&message, FIELD_POSITION_LONGITUDE, decimal_of("180.000000001")));
    check_removed(1, FIELD_POSITION_LONGITUDE, "180.000000001", "out of range");
    cr_assert(!message_set_number(&message, FIELD_POSITION_LATITUDE, decimal_of("-90.10")));
    check_removed(2, FIELD_POSITION_LATITUDE, "-90.1", "out of range");
    cr_assert(!message_set_number_at(&message, FIELD_TIRE_PRESSURE, "1", decimal_of("-1")));
    check_removed(3, FIELD_TIRE_PRESSURE, "-1", "out of range");
    check_json("{\"position.latitude\":90}"); // the good value that was there stays
}

Test(message, what_is_not_utf8_is_refused) {
    message_reset(&message);
    cr_assert(!message_set_text(&message, FIELD_IDENT, "a\xff", 2));
    check_removed(1, FIELD_IDENT, "a\xff", "not text in UTF-8");
    cr_assert(!message_set_text(&message, FIELD_IDENT, "a\0b", 3));
    cr_assert(!message_set_text_at(&message, FIELD_CAN_DATA_FRAME, "1", "\xc3", 1));
    check_removed(3, FIELD_CAN_DATA_FRAME, "\xc3", "not text in UTF-8");
    check_json("{}");
}

Test(message, only_so_many_removed_values_are_kept_but_all_are_counted) {
    message_reset(&message);
    for (int i = 0; i < MESSAGE_REMOVED_MAX + 5; i++)
        message_set_integer(&message, FIELD_EVENT_ENUM, -1 - i);
    cr_assert_eq(message.removed_count, MESSAGE_REMOVED_MAX + 5);
    cr_assert_str_eq(message.removed[MESSAGE_REMOVED_MAX - 1].text, "-16");
}

Test(message, a_long_removed_value_is_cut) {
    char text[200];
    memset(text, 'x', sizeof text);
    message_reset(&message);
    message_note_removed(&message, FIELD_IDENT, text, sizeof text, message_absent);
    cr_assert_eq(strlen(message.removed[0].text), sizeof message.removed[0].text - 1);
    cr_assert_str_eq(message.removed[0].reason, "empty");
}

static void fill_values(void) {
    char index[8];
    message_reset(&message);
    for (size_t i = 0; i < MESSAGE_VALUES_MAX - MESSAGE_STAMPS; i++) {
        sprintf(index, "%zu", 1000 + i);
        cr_assert(
            message_set_number_at(&message, FIELD_TIRE_TEMPERATURE, index, decimal_of("999.999999999")));
    }
}

Test(message, full_of_values) {
    fill_values();
    cr_assert(!message_set_number_at(&message, FIELD_TIRE_PRESSURE, "1", decimal_of("2.5")));
    check_removed(1, FIELD_TIRE_PRESSURE, "2.5", "the message is full");
    cr_assert(!message_set_boolean(&message, FIELD_ALARM_EVENT, true));
    check_removed(2, FIELD_ALARM_EVENT, "true", "the message is full");
    cr_assert(!message_set_boolean(&message, FIELD_ALARM_EVENT, false));
    check_removed(3, FIELD_ALARM_EVENT, "false", "the message is full");
    size_t used = message.text_used;
    cr_assert(!message_set_text(&message, FIELD_CUSTOM_PAYLOAD, "abc", 3));
    check_removed(4, FIELD_CUSTOM_PAYLOAD, "abc", "the message is full");
    cr_assert_eq(message.text_used, used, "a text that did not fit took room");
    cr_assert(!message_add_list(&message, FIELD_GSM_CELLS));
    check_removed(5, FIELD_GSM_CELLS, "", "the message is full");
    cr_assert(message_set_number_at(&message, FIELD_TIRE_TEMPERATURE, "1000", decimal_of("1")));
    json_t *object = read_back();
    cr_assert_eq(json_object_size(object), MESSAGE_VALUES_MAX - MESSAGE_STAMPS);
    json_decref(object);
}

Test(message, full_of_text) {
    static char text[MESSAGE_TEXT_MAX + 1];
    memset(text, 'x', sizeof text);
    message_reset(&message);
    cr_assert(!message_set_text(&message, FIELD_IDENT, text, MESSAGE_TEXT_MAX + 1));
    cr_assert_str_eq(message.removed[0].reason, "the message is full");
    cr_assert(message_set_text(&message, FIELD_IDENT, text, MESSAGE_TEXT_MAX));
    cr_assert(!message_set_text(&message, FIELD_PEER, "x", 1));
    cr_assert(!message_set_number_at(&message, FIELD_TIRE_PRESSURE, "1", decimal_of("1")));
    cr_assert(message_set_integer(&message, FIELD_EVENT_ENUM, 1));
    json_t *object = read_back();
    cr_assert_eq(json_string_length(json_object_get(object, "ident")), MESSAGE_TEXT_MAX);
    cr_assert_eq(json_object_size(object), 2);
    json_decref(object);
}

Test(message, the_largest_message_fits_its_json) {
    static char text[MESSAGE_TEXT_MAX];
    memset(text, 1, sizeof text); // six bytes each
    fill_values();
    static const enum field stamps[] = {FIELD_TIMESTAMP,  FIELD_SERVER_TIMESTAMP, FIELD_PROTOCOL_ID,
                                        FIELD_CHANNEL_ID, FIELD_DEVICE_ID,        FIELD_DEVICE_TYPE_ID};
    for (size_t i = 0; i < sizeof stamps / sizeof stamps[0]; i++)
        cr_assert(message_set_integer(&message, stamps[i], 1));
    message_set_text(&message, FIELD_PEER, text, 64);
    message_set_text(&message, FIELD_DEVICE_NAME, text, 128);
    message_set_text(&message, FIELD_IDENT, text, MESSAGE_TEXT_MAX - message.text_used);
    cr_assert_eq(message.text_used, MESSAGE_TEXT_MAX);
    cr_assert_eq(message.count, MESSAGE_VALUES_MAX);
    cr_assert(message_write_json(&message, json, sizeof json) > 0);
}

Test(message, too_little_room_gives_nothing) {
    message_reset(&message);
    set_text(FIELD_IDENT, "a\"b");
    message_add_list(&message, FIELD_GSM_CELLS);
    message_add_row(&message, FIELD_GSM_CELLS);
    message_set_integer(&message, FIELD_GSM_CELLS_LAC, 3);
    size_t length = message_write_json(&message, json, sizeof json);
    for (size_t capacity = 1; capacity <= length + 1; capacity++) {
        char *exact = malloc(capacity); // one byte too far is found by the sanitizer
        cr_assert_eq(message_write_json(&message, exact, capacity), capacity > length ? length : 0);
        free(exact);
    }
}

// --- decimals ---

Test(decimal, parse) {
    static const struct {
        const char *text;
        int64_t mantissa;
        uint8_t places;
    } rows[] = {
        {"0", 0, 0},
        {"-0", 0, 0},
        {"-0.0", 0, 1},
        {"007", 7, 0},
        {"+2.10", 210, 2},
        {"-22.63827", -2263827, 5},
        {"0.000000001", 1, 9},
        {"999999999999999999", 999999999999999999, 0},
        {"-999999999999999999", -999999999999999999, 0},
        {"999999999.999999999", 999999999999999999, 9},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct decimal value = decimal_of(rows[i].text);
        cr_assert_eq(value.mantissa, rows[i].mantissa, "%s", rows[i].text);
        cr_assert_eq(value.places, rows[i].places, "%s", rows[i].text);
    }
}

Test(decimal, parse_refuses) {
    static const char *const texts[] = {"",
                                        "-",
                                        "+",
                                        ".",
                                        ".5",
                                        "5.",
                                        "1.2.3",
                                        "1e3",
                                        " 1",
                                        "1 ",
                                        "--1",
                                        "+-1",
                                        "0x1",
                                        "nan",
                                        "1,5",
                                        "1-2",
                                        "abc",
                                        "0.0000000001",
                                        "1000000000000000000"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct decimal value = {.mantissa = 42, .places = 3};
        cr_assert(!decimal_parse(texts[i], strlen(texts[i]), &value), "%s", texts[i]);
        cr_assert(value.mantissa == 42 && value.places == 3, "%s: touched", texts[i]);
    }
    struct decimal value;
    cr_assert(!decimal_parse("1\0", 2, &value));
    cr_assert(decimal_parse("12345", 2, &value) && value.mantissa == 12, "reads no more than length");
}

static void check_written(struct decimal value, const char *expected) {
    char *text = malloc(DECIMAL_TEXT_MAX);
    size_t length = decimal_write(value, text);
    cr_assert_str_eq(text, expected);
    cr_assert_eq(length, strlen(expected));
    free(text);
}

Test(decimal, write) {
    check_written(decimal_of("2.10"), "2.1");
    check_written(decimal_of("-0.0"), "0");
    check_written(decimal_of("10.000"), "10");
    check_written(decimal_of("100"), "100");
    check_written(decimal_of("0.05"), "0.05");
    check_written(decimal_of("-0.000000001"), "-0.000000001");
    check_written(decimal_of("22.63827"), "22.63827");
    check_written((struct decimal){INT64_MAX, 0}, "9223372036854775807");
    check_written((struct decimal){INT64_MIN, 0}, "-9223372036854775808");
    check_written((struct decimal){INT64_MIN, 9}, "-9223372036.854775808");
}

Test(decimal, scale) {
    struct decimal value = decimal_integer(3744);
    cr_assert(decimal_scale(&value, 3));
    check_written(value, "3.744");
    cr_assert(decimal_scale(&value, 6));
    check_written(value, "0.000003744");
    cr_assert(!decimal_scale(&value, 1));
    check_written(value, "0.000003744");
    cr_assert(decimal_scale(&value, 0));
}

Test(decimal, range) {
    cr_assert(decimal_in_range(decimal_of("90.0"), -90, 90));
    cr_assert(!decimal_in_range(decimal_of("90.000000001"), -90, 90));
    cr_assert(decimal_in_range(decimal_of("-90"), -90, 90));
    cr_assert(!decimal_in_range(decimal_of("-90.000000001"), -90, 90));
    cr_assert(!decimal_in_range(decimal_of("-0.1"), 0, 1));
    cr_assert(decimal_in_range(decimal_of("0.9"), 0, 1));
    cr_assert(decimal_in_range(decimal_integer(INT64_MIN), INT64_MIN, INT64_MAX));
    cr_assert(!decimal_in_range(decimal_integer(INT64_MAX), 0, INT64_MAX - 1));
}

Test(decimal, at) {
    cr_assert_eq(decimal_at(decimal_of("1764172800.123456"), 6), 1764172800123456);
    cr_assert_eq(decimal_at(decimal_of("1764172800.1234569"), 6), 1764172800123456);
    cr_assert_eq(decimal_at(decimal_of("-2.75"), 1), -27);
    cr_assert_eq(decimal_at(decimal_of("3"), 6), 3000000);
    cr_assert_eq(decimal_at(decimal_integer(INT64_MAX), 6), INT64_MAX);
    cr_assert_eq(decimal_at(decimal_integer(INT64_MIN), 6), INT64_MIN);
}

Test(decimal, to_double) {
    cr_assert(decimal_to_double(decimal_of("22.63827")) == 22.63827);
    cr_assert(decimal_to_double(decimal_of("-7")) == -7.0);
}

// --- UTF-8 ---

Test(utf8, valid) {
    static const char *const texts[] = {"",
                                        "a~\x7f\x01",
                                        "\xc2\x80",
                                        "\xdf\xbf",
                                        "\xe0\xa0\x80",
                                        "\xed\x9f\xbf",
                                        "\xee\x80\x80",
                                        "\xef\xbf\xbf",
                                        "\xf0\x90\x80\x80",
                                        "\xf4\x8f\xbf\xbf"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        cr_assert(utf8_valid(texts[i], strlen(texts[i])), "text %zu", i);
}

Test(utf8, not_valid) {
    static const char *const texts[] = {
        "\x80",             // no lead byte
        "\xc0\x80",         // two bytes where one would do
        "\xc1\xbf",         //
        "\xe0\x9f\xbf",     // three where two would do
        "\xf0\x8f\xbf\xbf", // four where three would do
        "\xed\xa0\x80",     // surrogates
        "\xed\xbf\xbf",     //
        "\xf4\x90\x80\x80", // above U+10FFFF
        "\xf5\x80\x80\x80", //
        "\xf8\x88\x80\x80\x80",
        "\xff",
        "\xc3",         // cut
        "\xe2\x82",     //
        "\xf0\x9f\x9a", //
        "\xc3(",        // no tail byte
        "\xe2(\xac",    //
        "a\xe2\x82\x41",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        cr_assert(!utf8_valid(texts[i], strlen(texts[i])), "text %zu", i);
    cr_assert(!utf8_valid("a\0b", 3), "a NUL");
    cr_assert(!utf8_valid("\xc3\xa9", 1), "reads no more than length");
}
