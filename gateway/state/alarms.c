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

static uint32_t bit_of(const struct codec *codec, enum field field) {
    for (unsigned i = 0; codec->alarms[i] != FIELD_NONE; i++)
        if (codec->alarms[i] == field)
            return UINT32_C(1) << i;
    return 0;
}

// What nobody was told, and would be lost with what comes now.
static void keep_untold(struct alarms *alarms, uint32_t raised) {
    uint32_t untold = alarms->raised & ~alarms->told & ~raised;
    if (untold != 0) {
        alarms->missed_timestamp = alarms->timestamp;
        alarms->missed_received = alarms->received;
    }
    alarms->missed = (alarms->missed | untold) & ~raised;
}

bool alarms_take(struct alarms *alarms, uint32_t raised, int64_t timestamp, int64_t received) {
    if (alarms->known && timestamp < alarms->timestamp)
        return false;
    bool news = !alarms->known || raised != 0 || alarms->raised != 0;
    keep_untold(alarms, raised);
    alarms->known = true;
    alarms->raised = raised;
    alarms->timestamp = timestamp;
    alarms->received = received;
    if (news) { // what is published again, to a broker that has lost it, says the same
        alarms->said_timestamp = timestamp;
        alarms->said_received = received;
    }
    return news;
}

bool alarms_take_late(struct alarms *alarms, const struct codec *codec, uint32_t raised, int64_t timestamp,
                      int64_t received) {
    uint32_t battery = bit_of(codec, FIELD_BATTERY_LOW_ALARM);
    uint32_t merged = (alarms->raised & ~battery) | (raised & battery);
    return alarms->known && merged != alarms->raised && alarms_take(alarms, merged, timestamp, received);
}

bool alarms_are_urgent(const struct alarms *alarms) {
    return alarms->missed != 0 || alarms->raised != alarms->told;
}

char *alarms_write(const struct alarms *alarms, const struct codec *codec) {
    bool missed = alarms->missed != 0;
    int64_t timestamp = missed ? alarms->missed_timestamp : alarms->said_timestamp;
    int64_t received = missed ? alarms->missed_received : alarms->said_received;
    json_t *json = json_pack("{s:f, s:f}", "server.timestamp", (double)received / 1e6, "timestamp",
                             (double)timestamp / 1e6);
    for (unsigned i = 0; codec->alarms[i] != FIELD_NONE; i++)
        if (((alarms->raised | alarms->missed) & UINT32_C(1) << i) != 0)
            json_object_set_new(json, field_table[codec->alarms[i]].key, json_true());
    char *text = text_of_json(json, TEXT_VALUE_DIGITS);
    json_decref(json);
    return text;
}

void alarms_note_told(struct alarms *alarms) {
    alarms->told = alarms->raised | alarms->missed;
    alarms->missed = 0;
}

void alarms_forget(struct alarms *alarms) {
    *alarms = (struct alarms){.punctual = alarms->punctual};
}

void alarms_recall(struct alarms *alarms, int64_t timestamp, int64_t arrived) {
    if (timestamp % SECOND == 0 && arrived - timestamp <= ON_TIME) // else it said no time
        alarms->punctual = true;
}

bool alarms_are_old(bool *punctual, const struct channel_report *report, int64_t timestamp, int hold) {
    int64_t age = report->received - timestamp;
    if (report->timestamp != report->received && age <= ON_TIME) // else it said no time
        *punctual = true;
    return *punctual && age > (hold > 0 ? hold : HOLD) * SECOND && age < OUTDATED;
}
