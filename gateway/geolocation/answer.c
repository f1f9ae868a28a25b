// The answer of a geolocation service; see answer.h.
#include "gateway/geolocation/answer.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define DEGREE       1e7
#define ACCURACY_MAX 4e9 // decimeters
#define WIFI_MAX                                                                                             \
    500 // meters: with both kinds around, what is less accurate came from the cells (as in Ichnaea)

static bool is_within(const json_t *value, double most) {
    return json_is_number(value) && fabs(json_number_value(value)) <= most;
}

static bool by_wifi(const struct surroundings *asked, double accuracy) {
    return asked->cell_count == 0 || (asked->point_count > 0 && accuracy <= WIFI_MAX);
}

// 0,0 is where those are that are nowhere. One that goes by the address of who asks has found the gateway.
static bool is_nowhere(const json_t *answer, const struct location *place) {
    const char *fallback = json_string_value(json_object_get(answer, "fallback"));
    return (place->latitude == 0 && place->longitude == 0) ||
           (fallback != NULL && strcmp(fallback, "ipf") == 0);
}

static enum answer_verdict read_place(const json_t *answer, const struct surroundings *asked,
                                      struct location *place, char *reason) {
    const json_t *location = json_object_get(answer, "location");
    const json_t *latitude = json_object_get(location, "lat"), *longitude = json_object_get(location, "lng");
    double accuracy = json_number_value(json_object_get(answer, "accuracy"));
    if (!is_within(latitude, 90) || !is_within(longitude, 180) ||
        !json_is_number(json_object_get(answer, "accuracy")) || accuracy < 0) {
        snprintf(reason, ANSWER_REASON_MAX,
                 "its answer is no place: expected location.lat, .lng and accuracy");
        return ANSWER_FAILED;
    }
    const struct location found = {.latitude = (int32_t)lround(json_number_value(latitude) * DEGREE),
                                   .longitude = (int32_t)lround(json_number_value(longitude) * DEGREE),
                                   .accuracy = (uint32_t)fmin(ceil(accuracy * 10), ACCURACY_MAX),
                                   .wifi = by_wifi(asked, accuracy)};
    if (is_nowhere(answer, &found))
        return ANSWER_NOT_FOUND;
    *place = found;
    return ANSWER_FOUND;
}

static enum answer_verdict read_body(const char *body, size_t length, const struct surroundings *asked,
                                     struct location *place, char *reason) {
    json_t *answer = json_loadb(body, length, 0, NULL);
    enum answer_verdict verdict = ANSWER_FAILED;
    if (json_is_object(answer))
        verdict = read_place(answer, asked, place, reason);
    else
        snprintf(reason, ANSWER_REASON_MAX, "its answer is not JSON");
    json_decref(answer);
    return verdict;
}

// Only one that says so itself: whoever else answers there, such as a proxy, says 404 to everything.
static bool says_not_found(const char *body, size_t length) {
    json_t *answer = json_loadb(body, length, 0, NULL);
    bool says = json_integer_value(json_object_get(json_object_get(answer, "error"), "code")) == 404;
    json_decref(answer);
    return says;
}

static const char *meaning_of(long status) {
    switch (status) {
    case 404:
        return " (geolocation.url)";
    case 401:
    case 403:
        return " (geolocation.key_file)";
    case 429:
        return " (too many requests)";
    default:
        return status / 100 == 3 ? " (redirects are not followed)" : "";
    }
}

enum answer_verdict answer_read(long status, const char *body, size_t length,
                                const struct surroundings *asked, struct location *place, char *reason) {
    if (status == 200)
        return read_body(body, length, asked, place, reason);
    if (status == 404 && says_not_found(body, length))
        return ANSWER_NOT_FOUND;
    snprintf(reason, ANSWER_REASON_MAX, "it answers HTTP %ld%s", status, meaning_of(status));
    return status == 401 || status == 403 || status == 429 ? ANSWER_REFUSED : ANSWER_FAILED;
}
