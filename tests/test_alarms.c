// Which alarms a device raises, for Home Assistant.
#include <criterion/criterion.h>
#include <stdlib.h>
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

// --- what is told of them ---

static void expect_told(struct alarms *alarms, const char *text) {
    char *told = alarms_write(alarms, codec_find("mictrack"));
    cr_expect_str_eq(told, text);
    alarms_note_told(alarms);
    free(told);
}

#define AT(seconds) INT64_C(1000000) * (seconds)

// It may be over when the broker takes something again.
Test(alarms, are_told_although_they_are_over) {
    struct alarms alarms = {0};
    uint32_t event = bit_of(FIELD_ALARM_EVENT), in = bit_of(FIELD_GEOFENCE_IN_ALARM);
    cr_expect(alarms_take(&alarms, 0, AT(1), AT(1)));
    cr_expect(!alarms_are_urgent(&alarms));
    expect_told(&alarms, "{\"server.timestamp\":1.0,\"timestamp\":1.0}");
    cr_expect(!alarms_take(&alarms, 0, AT(2), AT(2)), "there is nothing new");
    cr_expect(alarms_take(&alarms, event, AT(3), AT(4)));
    cr_expect(alarms_take(&alarms, in, AT(5), AT(6)));
    cr_expect(alarms_take(&alarms, 0, AT(7), AT(8)));
    cr_expect(alarms_are_urgent(&alarms));
    expect_told(&alarms, "{\"alarm.event\":true,\"geofence.in.alarm\":true,"
                         "\"server.timestamp\":6.0,\"timestamp\":5.0}");
    cr_expect(alarms_are_urgent(&alarms), "they are over");
    expect_told(&alarms, "{\"server.timestamp\":8.0,\"timestamp\":7.0}");
    cr_expect(!alarms_are_urgent(&alarms));
}

Test(alarms, that_stay_are_not_urgent) {
    struct alarms alarms = {0};
    uint32_t event = bit_of(FIELD_ALARM_EVENT);
    cr_expect(alarms_take(&alarms, event, AT(1), AT(1)));
    cr_expect(alarms_are_urgent(&alarms));
    alarms_note_told(&alarms);
    cr_expect(alarms_take(&alarms, event, AT(2), AT(2)), "it is held on");
    cr_expect(!alarms_are_urgent(&alarms));
    cr_expect(!alarms_take(&alarms, 0, AT(1), AT(3)), "an older report does not count");
    cr_expect_eq(alarms.raised, event);
    cr_expect(alarms_take(&alarms, 0, AT(3), AT(3)));
    cr_expect(alarms_are_urgent(&alarms));
    expect_told(&alarms, "{\"server.timestamp\":3.0,\"timestamp\":3.0}");
}

// They are over, or were on already: but a battery that is low, or is so no longer, is it still.
Test(alarms, that_come_late_change_nothing_but_the_battery) {
    const struct codec *codec = codec_find("mictrack");
    uint32_t event = bit_of(FIELD_ALARM_EVENT), battery = bit_of(FIELD_BATTERY_LOW_ALARM);
    struct alarms alarms = {0};
    cr_expect(!alarms_take_late(&alarms, codec, event | battery, AT(1), AT(9)), "nobody knows what is on");
    alarms_take(&alarms, event, AT(2), AT(2));
    cr_expect(!alarms_take_late(&alarms, codec, 0, AT(3), AT(9)));
    cr_expect(!alarms_take_late(&alarms, codec, bit_of(FIELD_GEOFENCE_IN_ALARM), AT(3), AT(9)));
    cr_expect_eq(alarms.raised, event);
    cr_expect(alarms_take_late(&alarms, codec, battery, AT(3), AT(9)));
    cr_expect_eq(alarms.raised, event | battery);
    cr_expect(!alarms_take_late(&alarms, codec, 0, AT(2), AT(9)), "it is older than that");
    cr_expect(alarms_take_late(&alarms, codec, 0, AT(4), AT(9)));
    cr_expect_eq(alarms.raised, event);
}

// After a restart.
Test(alarms, of_a_clock_that_was_right_before) {
    struct alarms alarms = {0};
    alarms_recall(&alarms, AT(1000), AT(1061));
    cr_expect(!alarms.punctual, "that report came late");
    alarms_recall(&alarms, AT(1000) + 5, AT(1000));
    cr_expect(!alarms.punctual, "it said no time");
    alarms_recall(&alarms, AT(1000), AT(1060));
    cr_expect(alarms.punctual);
    alarms_forget(&alarms);
    cr_expect(alarms.punctual, "its clock is right, whatever it raises");
}
