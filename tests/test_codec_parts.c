// The parts that codecs share: checksums, values and the walker of layouts.
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "codecs/checksum.h"
#include "codecs/layout.h"
#include "codecs/values.h"
#include "gateway/state/battery.h"

static const uint8_t *bytes_of(const char *text) {
    return (const uint8_t *)text;
}

static struct span span_of(const char *text) {
    return (struct span){.text = text, .length = strlen(text)};
}

// --- checksums ---

// The values that catalogues of CRCs give for these nine digits.
Test(checksum, crc16_of_the_check_text) {
    static const struct {
        const struct crc16 *kind;
        unsigned expected;
    } cases[] = {
        {&crc16_arc, 0xBB3D},    {&crc16_x25, 0x906E},    {&crc16_ccitt, 0x29B1},
        {&crc16_xmodem, 0x31C3}, {&crc16_modbus, 0x4B37},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        cr_assert_eq(checksum_crc16(cases[i].kind, bytes_of("123456789"), 9), cases[i].expected, "%zu", i);
    cr_assert_eq(checksum_crc16(&crc16_x25, NULL, 0), 0);
}

// Frames that vendors give as examples: the answer to a login of GT06, and a packet of Teltonika's Codec 8.
Test(checksum, crc16_of_frames_in_public_documents) {
    static const uint8_t gt06[] = {0x05, 0x01, 0x00, 0x05};
    static const uint8_t codec_8[] = {
        0x08, 0x01, 0x00, 0x00, 0x01, 0x6B, 0x40, 0xD8, 0xEA, 0x30, 0x01, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x05,
        0x02, 0x15, 0x03, 0x01, 0x01, 0x01, 0x42, 0x5E, 0x0F, 0x01, 0xF1, 0x00, 0x00, 0x60,
        0x1A, 0x01, 0x4E, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01,
    };
    cr_assert_eq(checksum_crc16(&crc16_x25, gt06, sizeof gt06), 0x9FF8);
    cr_assert_eq(sizeof codec_8, 0x36, "as its head says");
    cr_assert_eq(checksum_crc16(&crc16_arc, codec_8, sizeof codec_8), 0xC7CF);
}

Test(checksum, adler32_of_known_texts) {
    cr_assert_eq(checksum_adler32(bytes_of("Wikipedia"), 9), 0x11E60398);
    cr_assert_eq(checksum_adler32(NULL, 0), 1);
}

// Longer than the run after which the sums are reduced, and all of the largest byte.
Test(checksum, adler32_does_not_overflow) {
    static uint8_t bytes[20000];
    uint32_t low = 1, high = 0;
    memset(bytes, 0xFF, sizeof bytes);
    for (size_t i = 0; i < sizeof bytes; i++) {
        low = (low + bytes[i]) % 65521;
        high = (high + low) % 65521;
    }
    cr_assert_eq(checksum_adler32(bytes, sizeof bytes), high << 16 | low);
}

Test(checksum, sums_of_bytes) {
    static const uint8_t bytes[] = {0xFF, 0x02, 0x10};
    cr_assert_eq(checksum_sum8(bytes, sizeof bytes), 0x11);
    cr_assert_eq(checksum_xor8(bytes, sizeof bytes), 0xED);
}

// --- values ---

Test(values, times_there_and_back) {
    static const struct {
        struct value_moment moment;
        int64_t seconds;
    } cases[] = {
        {{1970, 1, 1, 0, 0, 0}, 0},
        {{1972, 2, 29, 12, 0, 0}, 68212800},
        {{2000, 2, 29, 23, 59, 59}, 951868799},
        {{2019, 1, 9, 9, 18, 3}, 1547025483},
        {{2024, 12, 31, 0, 0, 1}, 1735603201},
        {{2099, 12, 31, 23, 59, 59}, 4102444799},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int64_t seconds = -1;
        cr_assert(value_unix_time(&cases[i].moment, &seconds), "%zu", i);
        cr_assert_eq(seconds, cases[i].seconds, "%zu: %lld", i, (long long)seconds);
        struct value_moment back = value_moment_of(seconds);
        cr_assert(memcmp(&back, &cases[i].moment, sizeof back) == 0, "%zu", i);
    }
}

Test(values, days_that_do_not_exist) {
    static const struct value_moment none[] = {
        {2023, 2, 29, 0, 0, 0}, {2024, 4, 31, 0, 0, 0}, {2024, 0, 1, 0, 0, 0},  {2024, 13, 1, 0, 0, 0},
        {2024, 1, 0, 0, 0, 0},  {2024, 1, 1, 24, 0, 0}, {2024, 1, 1, 0, 60, 0}, {2024, 1, 1, 0, 0, 61},
        {1969, 1, 1, 0, 0, 0},  {2100, 1, 1, 0, 0, 0},  {2024, 1, 1, 0, 0, -1},
    };
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
        int64_t seconds = 7;
        cr_assert(!value_unix_time(&none[i], &seconds) && seconds == 7, "%zu", i);
    }
}

Test(values, times_of_digits_in_any_order) {
    int64_t seconds = 0;
    cr_assert(value_time_of_digits(span_of("190109091803"), "YMDhms", &seconds) && seconds == 1547025483);
    seconds = 0;
    cr_assert(value_time_of_digits(span_of("091803090119"), "hmsDMY", &seconds) && seconds == 1547025483);
    cr_assert(value_time_of_digits(span_of("800106000317"), "YMDhms", &seconds) && seconds == 315964997,
              "%lld", (long long)seconds);
    cr_assert(value_time_of_digits(span_of("691231235959"), "YMDhms", &seconds) && seconds == 3155759999);
    cr_assert(value_time_of_digits(span_of("700101000000"), "YMDhms", &seconds) && seconds == 0,
              "the first of the last century");
    cr_assert(!value_time_of_digits(span_of("19010909180"), "YMDhms", &seconds), "a digit is missing");
    cr_assert(!value_time_of_digits(span_of("19010909180x"), "YMDhms", &seconds));
    cr_assert(!value_time_of_digits(span_of("191309091803"), "YMDhms", &seconds), "month 13");
}

static const struct {
    const char *minutes, *degrees; // degrees NULL: there are none
} positions[] = {
    {"2238.2962", "22.6382700"},
    {"11401.7532", "114.0292200"},
    {"0000.0000", "0.0000000"},
    {"18000.0000", "180.0000000"},
    {"0059.999999", "1.0000000"},
    {"2260.0", NULL},
    {"18100.0", NULL},
    {"-2238.2962", NULL},
};

Test(values, degrees_of_minutes) {
    for (size_t i = 0; i < sizeof positions / sizeof positions[0]; i++) {
        struct decimal minutes, degrees, expected = {0};
        const char *text = positions[i].minutes, *wanted = positions[i].degrees;
        cr_assert(decimal_parse(text, strlen(text), &minutes));
        cr_assert(wanted == NULL || decimal_parse(wanted, strlen(wanted), &expected));
        cr_assert_eq(value_degrees_of_minutes(minutes, &degrees), wanted != NULL, "%s", text);
        cr_assert(wanted == NULL ||
                      (degrees.mantissa == expected.mantissa && degrees.places == expected.places),
                  "%s: %lld", text, (long long)degrees.mantissa);
    }
}

Test(values, km_h_of_knots) {
    struct decimal km_h = {0};
    cr_assert(value_km_h_of_knots((struct decimal){.mantissa = 12, .places = 1}, &km_h));
    cr_assert(km_h.mantissa == 22224 && km_h.places == 4, "1.2 knots are 2.2224 km/h");
    cr_assert(!value_km_h_of_knots(decimal_integer(-1), &km_h));
    cr_assert(!value_km_h_of_knots(decimal_integer(1000000001), &km_h));
    cr_assert(!value_km_h_of_knots((struct decimal){.mantissa = 1, .places = 7}, &km_h));
}

Test(values, bcd_and_hexadecimal) {
    static const uint8_t imei[] = {0x03, 0x58, 0x74, 0x00, 0x50, 0x00, 0x12, 0x34}, bad[] = {0x12, 0xA3};
    char text[2 * sizeof imei + 1];
    int64_t number = 7;
    cr_assert(value_bcd_digits(imei, sizeof imei, text));
    cr_assert_str_eq(text, "0358740050001234");
    cr_assert(!value_bcd_digits(bad, sizeof bad, text));
    cr_assert(value_bcd(imei, 3, &number) && number == 35874);
    cr_assert(!value_bcd(bad, sizeof bad, &number) && !value_bcd(imei, 0, &number) && number == 35874);
    cr_assert_eq(value_hex(bad, sizeof bad, text), 4);
    cr_assert_str_eq(text, "12a3");
}

Test(values, little_endian_readers) {
    static const uint8_t bytes[] = {0x01, 0x02, 0x03, 0xFE, 0xFF, 0x05};
    struct reader reader = reader_of(bytes, sizeof bytes);
    cr_assert_eq(reader_unsigned_little(&reader, 3), 0x030201);
    cr_assert_eq(reader_signed_little(&reader, 2), -2);
    cr_assert(reader_unsigned_little(&reader, 2) == 0 && reader.fault);
}

// --- layouts ---

static struct message message;

// What the message says, as JSON; the buffer is used again.
static const char *said(void) {
    static char json[MESSAGE_JSON_MAX];
    message_write_json(&message, json, sizeof json);
    message_reset(&message);
    return json;
}

enum own { DOUBLED = LAYOUT_OWN };

static void take_own(struct layout_walk *walk, const struct layout_item *item,
                     const struct layout_value *value) {
    message_set_integer(walk->message, item->field, 2 * value->number);
}

Test(layout, bytes_in_their_order) {
    static const struct layout_item items[] = {
        {.kind = LAYOUT_NUMBER, .field = FIELD_BATTERY_VOLTAGE, .bits = 16, .scale = 3},
        {.kind = LAYOUT_SKIP, .bits = 8},
        {.kind = LAYOUT_SIGNED, .field = FIELD_CAN_ENGINE_TEMPERATURE, .bits = 8},
        {.kind = LAYOUT_FLAG, .field = FIELD_POSITION_VALID, .bits = 8},
        {.kind = LAYOUT_TRUE, .field = FIELD_ENGINE_IGNITION_STATUS},
        {.kind = DOUBLED, .field = FIELD_ENGINE_RPM, .bits = 8},
        {.kind = LAYOUT_END},
    };
    static const uint8_t bytes[] = {0x0E, 0xA0, 0x77, 0xF6, 0x01, 0x15, 0x99};
    struct reader reader = reader_of(bytes, sizeof bytes);
    struct layout_walk walk = {.message = &message, .bytes = &reader, .take = take_own};
    message_reset(&message);
    layout_take_all(&walk, items);
    cr_assert(!reader.fault && reader_left(&reader) == 1);
    cr_assert_str_eq(said(), "{\"battery.voltage\":3.744,\"can.engine.temperature\":-10,"
                             "\"engine.ignition.status\":true,\"engine.rpm\":42,\"position.valid\":true}");
    reader = reader_of(bytes, 3);
    layout_take_all(&walk, items);
    cr_assert(reader.fault, "the record ends before its layout");
}

Test(layout, bits_across_bytes) {
    static const struct layout_item items[] = {
        {.kind = LAYOUT_FLAG, .field = FIELD_POSITION_VALID, .bits = 1},
        {.kind = LAYOUT_NUMBER, .field = FIELD_POSITION_SATELLITES, .bits = 4},
        {.kind = LAYOUT_SIGNED, .field = FIELD_CAN_GEAR, .bits = 3},
        {.kind = LAYOUT_NUMBER, .field = FIELD_ENGINE_RPM, .bits = 12},
        {.kind = LAYOUT_NUMBER, .field = FIELD_SLEEP_MODE, .bits = 4},
        {.kind = LAYOUT_NUMBER, .field = FIELD_VEHICLE_SPEED, .bits = 8},
        {.kind = LAYOUT_END},
    };
    // 1 1001 111 | 100000000001 1010 | 00001111
    static const uint8_t bytes[] = {0xCF, 0x80, 0x1A, 0x0F};
    struct reader reader = reader_of(bytes, sizeof bytes);
    struct layout_walk walk = {.message = &message, .bytes = &reader};
    message_reset(&message);
    layout_take_all(&walk, items);
    cr_assert(!reader.fault && reader_left(&reader) == 0 && walk.bit == 0);
    cr_assert_str_eq(said(), "{\"can.gear\":-1,\"engine.rpm\":2049,\"position.satellites\":9,"
                             "\"position.valid\":true,\"sleep.mode\":10,\"vehicle.speed\":15}");
    reader = reader_of(bytes, 3);
    walk.may_end = true;
    layout_take_all(&walk, items);
    cr_assert(!reader.fault, "a record that may end, ends");
}

Test(layout, items_of_a_text) {
    static const struct layout_item items[] = {
        {.kind = LAYOUT_NUMBER, .field = FIELD_BATTERY_VOLTAGE, .scale = 3},
        {.kind = LAYOUT_SKIP},
        {.kind = LAYOUT_FLAG, .field = FIELD_POSITION_VALID},
        {.kind = LAYOUT_NUMBER, .field = FIELD_ENGINE_RPM},
        {.kind = LAYOUT_FLAG, .field = FIELD_POWER_ON_STATUS},
        {.kind = LAYOUT_END},
    };
    const struct span texts[] = {span_of("3744"), span_of("?"), span_of("0"), span_of("many"), span_of("")};
    struct layout_walk walk = {.message = &message, .texts = texts};
    message_reset(&message);
    layout_take_all(&walk, items);
    cr_assert_eq(message.removed_count, 2);
    cr_assert_str_eq(message.removed[0].reason, "not a number");
    cr_assert_eq(message.removed[1].reason, message_absent);
    cr_assert_str_eq(said(), "{\"battery.voltage\":3.744,\"position.valid\":false}");
}

Test(layout, values_by_their_id) {
    static const struct layout_item items[] = {
        {.kind = LAYOUT_SIGNED, .field = FIELD_TIRE_TEMPERATURE, .id = 205, .index = "1"},
        {.kind = LAYOUT_FLAG, .field = FIELD_POSITION_VALID, .id = 301},
        {.kind = LAYOUT_END},
    };
    static const uint8_t bytes[] = {0xFF, 0xEC, 0x02};
    struct layout_walk walk = {.message = &message};
    message_reset(&message);
    layout_take_value(&walk, layout_find(items, 205), reader_of(bytes, 2));
    layout_take_value(&walk, layout_find(items, 301), reader_of(bytes + 2, 1));
    cr_assert(layout_find(items, 0) == NULL && layout_find(items, 204) == NULL);
    cr_assert_eq(message.removed_count, 1);
    cr_assert_str_eq(said(), "{\"tire.temperature.1\":-20}");
}

// --- batteries ---

// From 0 to 100, both once, and upwards on the way.
Test(battery, of_each_protocol_is_a_curve) {
    size_t known = 0;
    for (size_t i = 0; codec_at(i) != NULL; i++) {
        const struct codec_battery *point = codec_at(i)->battery;
        if (point == NULL)
            continue;
        known++;
        cr_assert_eq(point->percent, 0);
        for (; point->percent < 100; point++)
            cr_assert(point[1].millivolts > point->millivolts && point[1].percent > point->percent);
        cr_assert_eq(point->percent, 100);
    }
    cr_assert(known > 0);
}

Test(battery, is_between_its_points) {
    const struct codec_battery points[] = {{3000, 0}, {3100, 50}, {3300, 100}};
    static const struct {
        double volts;
        int percent;
    } cases[] = {{-1, 0}, {3, 0}, {3.01, 5}, {3.1, 50}, {3.2, 75}, {3.299, 100}, {3.3, 100}, {12, 100}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        cr_expect_eq(battery_percent(points, cases[i].volts), cases[i].percent, "%g V", cases[i].volts);
    cr_expect_eq(battery_percent(NULL, 3.2), -1);
}
