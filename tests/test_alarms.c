// Which alarms a device raises, for Home Assistant.
#include <criterion/criterion.h>
#include <string.h>

#include "gateway/state/alarms.h"

#define NOW          INT64_C(1800000000000000)
#define AGO(seconds) (NOW - INT64_C(1000000) * (seconds))
#define HOLD         600

static bool is_old(bool *punctual, int64_t reported) {
    const struct channel_report report = {.timestamp = reported, .received = NOW};
    return alarms_are_old(punctual, &report, reported, HOLD);
}

// Of a tracker whose clock was never right an old time says nothing.
Test(alarms, of_a_clock_that_is_wrong_are_never_old) {
    bool punctual = false;
    cr_expect(!is_old(&punctual, AGO(3600)));
    cr_expect(!is_old(&punctual, NOW)); // it said no time
    cr_expect(!is_old(&punctual, AGO(3600)));
    cr_expect(!punctual);
}

Test(alarms, of_a_clock_that_is_right_are_old_after_a_while) {
    bool punctual = false;
    cr_expect(!is_old(&punctual, AGO(5)));
    cr_expect(punctual);
    cr_expect(!is_old(&punctual, AGO(HOLD)));
    cr_expect(is_old(&punctual, AGO(HOLD + 1)));
    cr_expect(is_old(&punctual, AGO(20 * 86400)));
    cr_expect(!is_old(&punctual, AGO(31 * 86400)), "that clock was set back");
}

static uint32_t raised_by(const char *volts, enum field alarm) {
    const struct message_member said[] = {
        {.field = FIELD_BATTERY_VOLTAGE, .index = "", .value = volts, .length = strlen(volts)},
        {.field = alarm, .index = "", .value = "true", .length = 4},
    };
    const struct channel_report report = {.members = said, .count = alarm != FIELD_NONE ? 2 : 1};
    return alarms_raised(codec_find("mictrack"), codec_find("mictrack")->battery, &report);
}

static uint32_t bit_of(enum field alarm) {
    const struct codec *codec = codec_find("mictrack");
    unsigned i = 0;
    while (codec->alarms[i] != alarm)
        i++;
    return UINT32_C(1) << i;
}

Test(alarms, are_those_of_the_report_and_of_the_battery) {
    cr_expect_eq(raised_by("3.9", FIELD_NONE), 0);
    cr_expect_eq(raised_by("3.9", FIELD_ALARM_EVENT), bit_of(FIELD_ALARM_EVENT));
    cr_expect_eq(raised_by("3.9", FIELD_BATTERY_LOW_ALARM), bit_of(FIELD_BATTERY_LOW_ALARM));
    cr_expect_eq(raised_by("3.6", FIELD_NONE), bit_of(FIELD_BATTERY_LOW_ALARM));
}
