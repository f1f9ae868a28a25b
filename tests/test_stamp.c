// The time that a message gets from the gateway, whatever protocol it came by.
#include <criterion/criterion.h>
#include <string.h>

#include "gateway/channels/message_stamp.h"

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
