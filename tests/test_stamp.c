// The time that a message gets from the gateway, whatever protocol it came by.
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "gateway/channels/message_stamp.h"
#include "gateway/config/registry.h"

#define DAY    86400
#define NOON   1600000000 // by the gateway's clock
#define MICROS 1000000

extern const struct codec codec_template;

static struct message message;

static const struct {
    int64_t now, says;  // seconds
    const char *reason; // why what the device says is left out; NULL: it stands
} cases[] = {
    {NOON, NOON - 3600, NULL},
    {NOON, 1420070400, NULL}, // 2015
    {NOON, 1420070399, "before 2015"},
    {NOON, 315965000, "before 2015"}, // 1980
    {NOON, NOON + DAY, NULL},
    {NOON, NOON + DAY + 1, "more than a day ahead of the gateway's clock"},
    {NOON, 3471292800, "more than a day ahead of the gateway's clock"}, // 2080
    // The gateway's own clock is not set.
    {600, NOON, NULL},
    {1420070399, NOON, NULL},
    {600, 315965000, "before 2015"},
    {1420070400, NOON, "more than a day ahead of the gateway's clock"},
};

static void stamp(int64_t now) {
    message_stamp(&message, &(struct message_origin){.codec = &codec_template, .received = now * MICROS});
}

static int64_t seconds_of(enum field field) {
    return (int64_t)decimal_to_double(message_get(&message, field)->number);
}

Test(stamp, a_time_that_cannot_be_is_the_gateways) {
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        message_reset(&message);
        message_set_integer(&message, FIELD_TIMESTAMP, cases[i].says);
        stamp(cases[i].now);
        cr_assert_eq(seconds_of(FIELD_SERVER_TIMESTAMP), cases[i].now, "%zu", i);
        cr_assert_eq(seconds_of(FIELD_TIMESTAMP), cases[i].reason == NULL ? cases[i].says : cases[i].now,
                     "%zu", i);
        cr_assert_eq(message.removed_count, cases[i].reason != NULL, "%zu", i);
        if (cases[i].reason == NULL)
            continue;
        char says[DECIMAL_TEXT_MAX];
        decimal_write(decimal_integer(cases[i].says), says);
        cr_assert_eq(message.removed[0].field, FIELD_TIMESTAMP);
        cr_assert_str_eq(message.removed[0].text, says);
        cr_assert_str_eq(message.removed[0].reason, cases[i].reason);
    }
}

Test(stamp, no_time_is_the_gateways) {
    message_reset(&message);
    stamp(NOON);
    cr_assert_eq(seconds_of(FIELD_TIMESTAMP), NOON);
    cr_assert_eq(message.removed_count, 0);
}

// Whatever a codec fills it with: everything depends on these.
Test(stamp, a_message_full_of_values_and_texts_has_its_time_and_origin) {
    static const struct device device = {.known = true, .id = 42, .name = "Van 1"};
    char index[16], text[64];
    memset(text, 'x', sizeof text);
    message_reset(&message);
    message_set_integer(&message, FIELD_EVENT_ENUM, 1);
    for (int i = 0; message.removed_count == 0; i++) {
        sprintf(index, "%d", i);
        if (i < 100)
            message_set_text_at(&message, FIELD_CAN_DATA_FRAME, index, text, sizeof text);
        else
            message_set_number_at(&message, FIELD_TIRE_PRESSURE, index, decimal_integer(1));
    }
    message_stamp(&message, &(struct message_origin){.codec = &codec_template,
                                                     .received = NOON * INT64_C(1000000),
                                                     .channel_id = 7,
                                                     .peer = "192.0.2.1:4000",
                                                     .device = &device});
    static const enum field fields[] = {
        FIELD_TIMESTAMP, FIELD_SERVER_TIMESTAMP, FIELD_PROTOCOL_ID, FIELD_CHANNEL_ID,
        FIELD_PEER,      FIELD_DEVICE_ID,        FIELD_DEVICE_NAME, FIELD_DEVICE_TYPE_ID};
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        cr_expect(message_get(&message, fields[i]) != NULL, "%s is missing", field_table[fields[i]].name);
}
