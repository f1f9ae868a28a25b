// Where devices were; see history.h.
#include "gateway/web/history.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <utlist.h>

#include "gateway/base/memory.h"

#define NO_DEGREES INT32_MIN
#define NO_VALUE   UINT16_MAX
#define FIRST_ROOM 8 // points

struct packed {
    uint32_t seconds;
    int32_t latitude, longitude; // 1e-7 degrees
    uint16_t speed, battery;     // 0.1 km/h, mV
};

struct history {
    struct history **place;
    struct packed *points; // a ring once it has its full length
    size_t room, count, oldest;
    struct history *prev, *next; // in the order of their last point
};

struct histories {
    struct history *list;
    size_t length, bytes;
};

struct histories *histories_new(size_t length) {
    struct histories *histories = must_have(calloc(1, sizeof *histories));
    histories->length = length;
    return histories;
}

static size_t bytes_of(const struct history *history) {
    return sizeof *history + history->room * sizeof *history->points;
}

void history_drop(struct histories *histories, struct history **place) {
    struct history *history = *place;
    if (history == NULL)
        return;
    histories->bytes -= bytes_of(history);
    DL_DELETE(histories->list, history);
    free(history->points);
    free(history);
    *place = NULL;
}

void histories_free(struct histories *histories) {
    while (histories->list != NULL)
        history_drop(histories, histories->list->place);
    free(histories);
}

static int32_t pack_degrees(double degrees) {
    return isnan(degrees) ? NO_DEGREES : (int32_t)lround(degrees * 1e7);
}

static uint16_t pack_value(double value, double unit) {
    double packed = round(value / unit);
    return packed >= 0 && packed < NO_VALUE ? (uint16_t)packed : NO_VALUE;
}

// The end of a ring that is full is its beginning.
static struct packed *next_place(struct histories *histories, struct history *history) {
    if (history->count == histories->length) {
        struct packed *oldest = &history->points[history->oldest];
        history->oldest = (history->oldest + 1) % history->count;
        return oldest;
    }
    if (history->count == history->room) {
        size_t room = history->room == 0 ? FIRST_ROOM : history->room * 2;
        room = room < histories->length ? room : histories->length;
        histories->bytes += (room - history->room) * sizeof *history->points;
        history->points = must_have(realloc(history->points, room * sizeof *history->points));
        history->room = room;
    }
    return &history->points[history->count++];
}

static struct history *make(struct histories *histories, struct history **place) {
    struct history *history = must_have(calloc(1, sizeof *history));
    history->place = place;
    histories->bytes += sizeof *history;
    return history;
}

void history_add(struct histories *histories, struct history **place, const struct history_point *point) {
    struct history *history = *place;
    if (histories->length == 0 || !(point->time >= 0 && point->time < UINT32_MAX))
        return;
    if (history == NULL)
        history = *place = make(histories, place);
    else
        DL_DELETE(histories->list, history);
    DL_APPEND(histories->list, history);
    *next_place(histories, history) = (struct packed){.seconds = (uint32_t)point->time,
                                                      .latitude = pack_degrees(point->latitude),
                                                      .longitude = pack_degrees(point->longitude),
                                                      .speed = pack_value(point->speed, 0.1),
                                                      .battery = pack_value(point->battery, 0.001)};
    while (histories->bytes > HISTORY_BYTES_MAX && histories->list != history)
        history_drop(histories, histories->list->place);
}

static double value_of(uint16_t packed, double per_unit) {
    return packed == NO_VALUE ? NAN : packed / per_unit;
}

static struct history_point unpack(const struct packed *packed) {
    bool known = packed->latitude != NO_DEGREES && packed->longitude != NO_DEGREES;
    return (struct history_point){.time = packed->seconds,
                                  .latitude = known ? packed->latitude / 1e7 : NAN,
                                  .longitude = known ? packed->longitude / 1e7 : NAN,
                                  .speed = value_of(packed->speed, 10),
                                  .battery = value_of(packed->battery, 1000)};
}

static int compare_times(const void *a, const void *b) {
    double first = ((const struct history_point *)a)->time, second = ((const struct history_point *)b)->time;
    return (first > second) - (first < second);
}

struct history_point *history_points(const struct history *history, size_t *count) {
    *count = history != NULL ? history->count : 0;
    struct history_point *points = must_have(malloc((*count + 1) * sizeof *points));
    for (size_t i = 0; i < *count; i++)
        points[i] = unpack(&history->points[(history->oldest + i) % history->count]);
    qsort(points, *count, sizeof *points, compare_times);
    return points;
}
