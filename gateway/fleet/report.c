// What one message or log entry says; see report.h.
#include "gateway/fleet/report.h"

#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "gateway/base/clean.h"
#include "gateway/base/hash.h"
#include "gateway/config/registry.h"
#include "gateway/fleet/when.h"
#include "schema/field.h"
#include "schema/message.h"

#define LATE  60000000 // microseconds from report to receipt; the time of the report is shown beyond this
#define RANKS 6U

// NULL when it is not a JSON object. Whole numbers of any size are read, as reals.
static json_t *read_object(const char *payload, size_t length) {
    json_t *json = NULL;
    if (length > 0 && length < MESSAGE_JSON_MAX)
        json = json_loadb(payload, length, JSON_DECODE_INT_AS_REAL, NULL);
    if (json_is_object(json))
        return json;
    json_decref(json);
    return NULL;
}

static double in_range(enum field field, const json_t *value) {
    double number = json_is_number(value) ? json_number_value(value) : NAN;
    const struct field_info *info = &field_table[field];
    return number >= (double)info->minimum && number <= (double)info->maximum ? number : NAN;
}

static double number_of(const json_t *json, enum field field) {
    return in_range(field, json_object_get(json, field_table[field].key));
}

// A time is never after now: a clock that is ahead must not keep a device at the top.
static int64_t time_of(const json_t *value, int64_t now) {
    double seconds = in_range(FIELD_TIMESTAMP, value);
    return seconds * 1e6 <= (double)now ? (int64_t)(seconds * 1e6) : now;
}

static int64_t id_of(const json_t *value) {
    double id = in_range(FIELD_DEVICE_ID, value);
    return id >= 0 ? (int64_t)id : -1;
}

// 0 for what is no id of a protocol.
static int protocol_of(const json_t *value) {
    double id = in_range(FIELD_PROTOCOL_ID, value);
    return id >= 0 ? (int)id : 0;
}

static int64_t channel_of(const json_t *value) {
    double id = in_range(FIELD_CHANNEL_ID, value);
    return id >= 0 ? (int64_t)id : -1;
}

static void copy_clean(const json_t *value, char *out, size_t capacity) {
    *out = '\0';
    if (json_is_string(value))
        clean_text(json_string_value(value), json_string_length(value), out, capacity);
}

static const struct report empty = {.id = -1,
                                    .type = -1,
                                    .latitude = NAN,
                                    .longitude = NAN,
                                    .speed = NAN,
                                    .direction = NAN,
                                    .battery = NAN,
                                    .channel = -1};

// Makes an empty report of this ident. False when that is not one.
static bool begin(struct report *report, const json_t *ident) {
    *report = empty;
    if (!json_is_string(ident) || !device_ident_valid(json_string_value(ident)))
        return false;
    snprintf(report->ident, sizeof report->ident, "%s", json_string_value(ident));
    return true;
}

// --- the event ---

// What is told of a message: the texts in it are clean, and together shorter than this.
struct telling {
    char text[1024];
    size_t length;
};

__attribute__((format(printf, 2, 3))) static void add(struct telling *telling, const char *format, ...) {
    size_t room = sizeof telling->text - telling->length;
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(telling->text + telling->length, room, format, arguments);
    va_end(arguments);
    telling->length += length > 0 && (size_t)length < room ? (size_t)length : 0;
}

static void tell(struct telling *telling, const char *what, const char *text) {
    add(telling, "%s%s%s", telling->length > 0 ? ", " : "", what, text);
}

// What a boolean says, or NULL.
static const char *words_of(const struct field_info *info, const json_t *value) {
    if (!json_is_boolean(value))
        return NULL;
    return json_is_true(value) ? info->when_true : info->when_false;
}

// A number or a text; an empty text is not worth telling.
static bool tell_text(const struct field_info *info, const json_t *value, struct telling *telling) {
    char text[64];
    if (json_is_number(value))
        snprintf(text, sizeof text, "%.10g", json_number_value(value));
    else
        copy_clean(value, text, sizeof text);
    if (info->before == NULL || *text == '\0')
        return false;
    tell(telling, info->before, text);
    return true;
}

static void tell_value(const struct field_info *info, const json_t *json, struct report *report,
                       struct telling *telling) {
    const json_t *value = json_object_get(json, info->key);
    const char *words = words_of(info, value);
    if (words != NULL)
        tell(telling, words, "");
    else if (!tell_text(info, value, telling))
        return;
    bool alarm = info->alarm && json_is_true(value);
    report->notable = report->notable || info->notable || alarm;
    report->alarm = report->alarm || alarm;
}

// The order in which fields are told: alarms, what else is notable, the rest; booleans before texts.
static unsigned rank_of(const struct field_info *info) {
    return (info->alarm ? 0U : info->notable ? 1U : 2U) + (info->type == FIELD_BOOLEAN ? 0U : RANKS / 2);
}

static void tell_values(const json_t *json, struct report *report, struct telling *telling) {
    for (unsigned rank = 0; rank < RANKS; rank++)
        for (enum field field = FIELD_NONE + 1; field < FIELD_COUNT; field++)
            if (rank_of(&field_table[field]) == rank && field_table[field].list == FIELD_NONE)
                tell_value(&field_table[field], json, report, telling);
}

// "ignition on (R0), of 2026-11-21T09:05:07"
static void tell_event(const json_t *json, struct report *report) {
    struct telling telling = {.length = 0};
    char type[32], time[WHEN_MAX];
    tell_values(json, report, &telling);
    copy_clean(json_object_get(json, field_table[FIELD_MESSAGE_TYPE].key), type, sizeof type);
    if (*type != '\0')
        add(&telling, telling.length > 0 ? " (%s)" : "%s", type);
    if (report->received - report->reported > LATE)
        tell(&telling, "of ", when_time(report->reported, time));
    clean_text(telling.text, telling.length, report->event, sizeof report->event); // for its cutting
}

// --- what others call ---

bool report_message(struct report *report, const char *payload, size_t length, int64_t now) {
    json_t *json = read_object(payload, length);
    bool valid = begin(report, json_object_get(json, field_table[FIELD_IDENT].key));
    if (valid) {
        copy_clean(json_object_get(json, field_table[FIELD_DEVICE_NAME].key), report->name,
                   sizeof report->name);
        report->id = id_of(json_object_get(json, field_table[FIELD_DEVICE_ID].key));
        report->type = id_of(json_object_get(json, field_table[FIELD_DEVICE_TYPE_ID].key));
        report->received = time_of(json_object_get(json, field_table[FIELD_SERVER_TIMESTAMP].key), now);
        report->reported = time_of(json_object_get(json, field_table[FIELD_TIMESTAMP].key), report->received);
        report->latitude = number_of(json, FIELD_POSITION_LATITUDE);
        report->longitude = number_of(json, FIELD_POSITION_LONGITUDE);
        report->speed = number_of(json, FIELD_POSITION_SPEED);
        if (isnan(report->speed))
            report->speed = number_of(json, FIELD_VEHICLE_SPEED);
        report->direction = number_of(json, FIELD_POSITION_DIRECTION);
        report->battery = number_of(json, FIELD_BATTERY_VOLTAGE);
        report->protocol = protocol_of(json_object_get(json, field_table[FIELD_PROTOCOL_ID].key));
        report->channel = channel_of(json_object_get(json, field_table[FIELD_CHANNEL_ID].key));
        tell_event(json, report);
    }
    json_decref(json);
    return valid;
}

static uint64_t hash_of(const char *text) {
    return hash_fnv1a(text, text != NULL ? strlen(text) : 0);
}

bool report_presence(struct presence *presence, bool connected, const char *payload, size_t length,
                     int64_t now) {
    json_t *json = read_object(payload, length);
    struct report *report = &presence->report;
    bool valid = begin(report, json_object_get(json, "ident"));
    if (valid) {
        char source[64];
        report->id = id_of(json_object_get(json, "device_id"));
        report->received = report->reported = time_of(json_object_get(json, "timestamp"), now);
        copy_clean(json_object_get(json, "source"), source, sizeof source);
        snprintf(report->event, sizeof report->event, connected ? "connected%s%s" : "disconnected%s%s",
                 *source != '\0' ? ", " : "", source);
        presence->connected = connected;
        presence->instance = hash_of(json_string_value(json_object_get(json, "instance")));
    }
    json_decref(json);
    return valid;
}

bool report_identity(struct report *report, const char *payload, size_t length) {
    json_t *json = read_object(payload, length);
    bool valid = begin(report, json_object_get(json, "ident"));
    report->id = id_of(json_object_get(json, "id"));
    report->type = id_of(json_object_get(json, "device_type_id"));
    report->protocol = protocol_of(json_object_get(json, "protocol_id"));
    copy_clean(json_object_get(json, "name"), report->name, sizeof report->name);
    json_decref(json);
    return valid;
}

bool report_position(struct report *report, const char *payload, size_t length) {
    json_t *json = read_object(payload, length);
    *report = empty; // a position says nothing of the battery
    report->latitude = in_range(FIELD_POSITION_LATITUDE, json_object_get(json, "latitude"));
    report->longitude = in_range(FIELD_POSITION_LONGITUDE, json_object_get(json, "longitude"));
    report->speed = in_range(FIELD_POSITION_SPEED, json_object_get(json, "speed"));
    report->direction = in_range(FIELD_POSITION_DIRECTION, json_object_get(json, "direction"));
    bool valid = json != NULL;
    json_decref(json);
    return valid;
}

double report_number(enum field field, const char *payload, size_t length) {
    json_t *json = json_loadb(payload, length, JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL, NULL);
    double number = length < MESSAGE_JSON_MAX ? in_range(field, json) : NAN;
    json_decref(json);
    return number;
}
