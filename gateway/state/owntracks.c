// OwnTracks; see owntracks.h.
#include "gateway/state/owntracks.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/text.h"
#include "gateway/state/battery.h"

#define TID_LENGTH 2 // characters that the apps show on the map

static const char *write_topic(const struct config *config, const char *ident, const char *rest,
                               char topic[TOPIC_MAX]) {
    snprintf(topic, TOPIC_MAX, "%s/trackbus/%s%s", config->owntracks.prefix, ident, rest);
    return topic;
}

static json_t *tid_of(const char *ident) {
    size_t length = strlen(ident);
    return json_string(length > TID_LENGTH ? ident + length - TID_LENGTH : ident);
}

// NULL when the report does not say it.
static json_t *value_of(const struct channel_report *report, enum field field) {
    for (size_t i = 0; i < report->count; i++)
        if (report->members[i].field == field)
            return json_loadb(report->members[i].value, report->members[i].length, JSON_DECODE_ANY, NULL);
    return NULL;
}

// Whole, as OwnTracks has all but the coordinates.
static void set_whole(json_t *location, const char *key, const struct channel_report *report,
                      enum field field) {
    json_t *value = value_of(report, field);
    if (json_is_number(value))
        json_object_set_new(location, key, json_integer((json_int_t)lround(json_number_value(value))));
    json_decref(value);
}

static void set_battery(json_t *location, const struct codec_battery *points,
                        const struct channel_report *report) {
    json_t *volts = value_of(report, FIELD_BATTERY_VOLTAGE);
    int percent = json_is_number(volts) ? battery_percent(points, json_number_value(volts)) : -1;
    if (percent >= 0)
        json_object_set_new(location, "batt", json_integer(percent));
    json_decref(volts);
}

char *owntracks_location(const struct config *config, const struct owntracks_device *device,
                         const struct channel_report *report, int64_t time) {
    char topic[TOPIC_MAX];
    json_t *location = json_pack(
        "{s:s, s:o*, s:o*, s:I, s:I, s:o, s:s}", "_type", "location", "lat",
        value_of(report, FIELD_POSITION_LATITUDE), "lon", value_of(report, FIELD_POSITION_LONGITUDE), "tst",
        (json_int_t)(time / 1000000), "created_at", (json_int_t)(report->received / 1000000), "tid",
        tid_of(device->ident), "topic", write_topic(config, device->ident, "", topic));
    set_whole(location, "vel", report, FIELD_POSITION_SPEED);
    set_whole(location, "cog", report, FIELD_POSITION_DIRECTION);
    set_whole(location, "alt", report, FIELD_POSITION_ALTITUDE);
    set_whole(location, "acc", report, FIELD_POSITION_ACCURACY);
    set_battery(location, config_battery(config, device->codec), report);
    bool has_place = json_object_get(location, "lat") != NULL && json_object_get(location, "lon") != NULL;
    char *text = has_place ? text_of_json(location, TEXT_VALUE_DIGITS) : NULL;
    json_decref(location);
    return text;
}

void owntracks_publish_location(const struct config *config, const struct bus *bus, const char *ident,
                                const char *location, enum mqtt_retain retain) {
    char topic[TOPIC_MAX];
    bus_publish_text(bus, write_topic(config, ident, "", topic), location,
                     location != NULL ? strlen(location) : 0, retain);
}

void owntracks_publish_card(const struct config *config, const struct bus *bus, const char *ident,
                            const struct owntracks_device *device, enum mqtt_retain retain) {
    char topic[TOPIC_MAX];
    json_t *card = device != NULL ? json_pack("{s:s, s:s, s:o}", "_type", "card", "name", device->name, "tid",
                                              tid_of(device->ident))
                                  : NULL;
    char *text = card != NULL ? text_of_json(card, TEXT_VALUE_DIGITS) : NULL;
    bus_publish_text(bus, write_topic(config, ident, "/info", topic), text, text != NULL ? strlen(text) : 0,
                     retain);
    free(text);
    json_decref(card);
}
