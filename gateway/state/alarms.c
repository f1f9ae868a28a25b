// Which alarms a device raises; see alarms.h.
#include "gateway/state/alarms.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/text.h"
#include "gateway/state/battery.h"

#define EMPTY     15 // percent: the battery is low by its voltage
#define HOLD      600
#define SECOND    INT64_C(1000000)
#define ON_TIME   (60 * SECOND)
#define OUTDATED  (30 * 86400 * SECOND)
#define TEXT_TRUE "true"

static const struct message_member *find(const struct channel_report *report, enum field field) {
    for (size_t i = 0; i < report->count; i++)
        if (report->members[i].field == field)
            return &report->members[i];
    return NULL;
}

static bool is_true(const struct message_member *member) {
    return member != NULL && member->length == strlen(TEXT_TRUE) &&
           memcmp(member->value, TEXT_TRUE, member->length) == 0;
}

static bool is_nearly_empty(const struct codec_battery *points, const struct channel_report *report) {
    const struct message_member *volts = find(report, FIELD_BATTERY_VOLTAGE);
    json_t *value = volts != NULL ? json_loadb(volts->value, volts->length, JSON_DECODE_ANY, NULL) : NULL;
    int percent = json_is_number(value) ? battery_percent(points, json_number_value(value)) : -1;
    json_decref(value);
    return percent >= 0 && percent <= EMPTY;
}

uint32_t alarms_raised(const struct codec *codec, const struct codec_battery *battery,
                       const struct channel_report *report) {
    uint32_t raised = 0;
    for (unsigned i = 0; codec->alarms[i] != FIELD_NONE; i++) {
        bool low = codec->alarms[i] == FIELD_BATTERY_LOW_ALARM && is_nearly_empty(battery, report);
        if (low || is_true(find(report, codec->alarms[i])))
            raised |= UINT32_C(1) << i;
    }
    return raised;
}

char *alarms_write(const struct codec *codec, uint32_t raised, int64_t timestamp, int64_t received) {
    json_t *json = json_pack("{s:f, s:f}", "server.timestamp", (double)received / 1e6, "timestamp",
                             (double)timestamp / 1e6);
    for (unsigned i = 0; codec->alarms[i] != FIELD_NONE; i++)
        if ((raised & UINT32_C(1) << i) != 0)
            json_object_set_new(json, field_table[codec->alarms[i]].key, json_true());
    char *text = text_of_json(json, TEXT_VALUE_DIGITS);
    json_decref(json);
    return text;
}

bool alarms_are_old(bool *punctual, const struct channel_report *report, int64_t timestamp, int hold) {
    int64_t age = report->received - timestamp;
    if (report->timestamp != report->received && age <= ON_TIME) // else it said no time
        *punctual = true;
    return *punctual && age > (hold > 0 ? hold : HOLD) * SECOND && age < OUTDATED;
}
