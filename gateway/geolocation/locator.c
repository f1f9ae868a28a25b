// Where reports without coordinates were made; see locator.h.
#include "gateway/geolocation/locator.h"

#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

#include "gateway/base/clock.h"
#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/geolocation/answer.h"
#include "gateway/geolocation/breaker.h"
#include "gateway/geolocation/places.h"
#include "gateway/geolocation/requests.h"

#define DEGREE_PLACES 7

struct question {
    struct locator *locator;
    uint64_t key;
    struct surroundings surroundings;
    struct locator_wait *waits;
    bool under_way;
    bool ending; // it goes once all that wait are told
    UT_hash_handle hh;
    struct question *prev, *next; // of those that are not under way, the newest in front
};

struct locator {
    uv_loop_t *loop;
    const struct config *config;
    struct places *places;
    struct requests *requests;
    struct breaker breaker;
    struct question *questions;
    struct question *queue;
    struct locator_counts counts;
};

// --- places ---

static int64_t now_in_seconds(void) {
    return clock_now() / 1000000;
}

static bool is_accurate(const struct locator *locator, const struct location *place) {
    return place->accuracy / 10.0 <= locator->config->geolocation.max_accuracy;
}

static struct decimal in_degrees(int32_t value) {
    return (struct decimal){.mantissa = value, .places = DEGREE_PLACES};
}

void locator_set(struct message *message, const struct location *place) {
    const char *source = place->wifi ? "wifi" : "cell";
    message_set_number(message, FIELD_POSITION_LATITUDE, in_degrees(place->latitude));
    message_set_number(message, FIELD_POSITION_LONGITUDE, in_degrees(place->longitude));
    message_set_number(message, FIELD_POSITION_ACCURACY,
                       (struct decimal){.mantissa = place->accuracy, .places = 1});
    message_set_text(message, FIELD_POSITION_SOURCE, source, strlen(source));
}

// --- questions ---

static struct question *find_question(const struct locator *locator, uint64_t key) {
    struct question *question;
    HASH_FIND(hh, locator->questions, &key, sizeof key, question);
    return question;
}

static void drop_question(struct question *question) {
    struct locator *locator = question->locator;
    HASH_DEL(locator->questions, question);
    if (!question->under_way)
        DL_DELETE(locator->queue, question);
    free(question);
}

static void tell(struct question *question, const struct location *place) {
    struct locator_wait *wait;
    question->ending = true;
    while ((wait = question->waits) != NULL) {
        DL_DELETE(question->waits, wait);
        wait->question = NULL;
        wait->done(wait, place);
    }
}

static void count_told(const struct question *question, uint64_t *counter) {
    const struct locator_wait *wait;
    size_t count = 0;
    DL_COUNT(question->waits, wait, count);
    *counter += count;
}

static void end_without(struct question *question) {
    struct locator *locator = question->locator;
    count_told(question, &locator->counts.without);
    tell(question, NULL);
    drop_question(question);
}

static void give_up_queue(struct locator *locator) {
    while (locator->queue != NULL)
        end_without(locator->queue);
}

// --- answers ---

static void ask_next(struct locator *locator);

static void take_failure(struct locator *locator, bool refused, uint64_t wished, const char *reason) {
    unsigned pause = breaker_failed(&locator->breaker, uv_now(locator->loop), refused, wished,
                                    (unsigned)(uv_hrtime() / 1000));
    locator->counts.failures++;
    if (pause == 0) {
        log_debug("geolocation: the service failed: %s", reason);
        return;
    }
    log_warning("geolocation: the service failed: %s; reports go out without a position, retrying in %.0f s",
                reason, pause / 1000.0);
    give_up_queue(locator);
}

static void take_success(struct question *question, const struct location *place) {
    struct locator *locator = question->locator;
    if (breaker_answered(&locator->breaker))
        log_info("geolocation: the service answers again");
    places_remember(locator->places, question->key, now_in_seconds(), place);
    bool good = place != NULL && is_accurate(locator, place);
    count_told(question, good ? &locator->counts.found : &locator->counts.not_found);
    tell(question, good ? place : NULL);
    drop_question(question);
}

static void on_result(void *context, const struct requests_result *result) {
    struct question *question = context;
    struct locator *locator = question->locator;
    struct location place;
    char reason[ANSWER_REASON_MAX];
    enum answer_verdict verdict = ANSWER_FAILED;
    if (result->error == NULL)
        verdict = answer_read(result->status, result->body, result->length, &question->surroundings, &place,
                              reason);
    if (verdict == ANSWER_FOUND || verdict == ANSWER_NOT_FOUND) {
        take_success(question, verdict == ANSWER_FOUND ? &place : NULL);
    } else {
        take_failure(locator, verdict == ANSWER_REFUSED, result->retry_after,
                     result->error != NULL ? result->error : reason);
        end_without(question);
    }
    ask_next(locator);
}

static void ask(struct question *question) {
    struct locator *locator = question->locator;
    const struct config *config = locator->config;
    char *text = surroundings_question(&question->surroundings);
    DL_DELETE(locator->queue, question);
    question->under_way = true;
    locator->counts.requests++;
    breaker_asked(&locator->breaker);
    requests_post(locator->requests, config->geolocation.url, config->geolocation.key, text,
                  config->geolocation.timeout, on_result, question);
    free(text);
}

static void ask_next(struct locator *locator) {
    while (locator->queue != NULL && requests_count(locator->requests) < REQUESTS_MAX &&
           breaker_allows(&locator->breaker, uv_now(locator->loop)))
        ask(locator->queue);
}

// --- what others call ---

static enum locator_verdict look_for_key(struct locator *locator, uint64_t key, struct location *place) {
    switch (places_find(locator->places, key, now_in_seconds(), place)) {
    case PLACES_FOUND:
        return is_accurate(locator, place) ? LOCATOR_KNOWN : LOCATOR_NOWHERE;
    case PLACES_NOWHERE:
        return LOCATOR_NOWHERE;
    case PLACES_UNKNOWN:
        break;
    }
    if (find_question(locator, key) != NULL)
        return LOCATOR_ASKS;
    return breaker_allows(&locator->breaker, uv_now(locator->loop)) ? LOCATOR_ASKS : LOCATOR_PAUSED;
}

enum locator_verdict locator_look(struct locator *locator, const struct message *message,
                                  struct surroundings *surroundings, struct location *place) {
    const char *url = locator->config->geolocation.url;
    if (url == NULL || !surroundings_of(message, surroundings))
        return LOCATOR_NO_NEED;
    enum locator_verdict verdict = look_for_key(locator, surroundings_key(surroundings, url), place);
    locator->counts.cached += verdict == LOCATOR_KNOWN;
    locator->counts.not_found += verdict == LOCATOR_NOWHERE;
    locator->counts.without += verdict == LOCATOR_PAUSED;
    return verdict;
}

void locator_ask(struct locator *locator, const struct surroundings *surroundings,
                 struct locator_wait *wait) {
    uint64_t key = surroundings_key(surroundings, locator->config->geolocation.url);
    struct question *question = find_question(locator, key);
    if (question == NULL) {
        question = must_have(calloc(1, sizeof *question));
        question->locator = locator;
        question->key = key;
        question->surroundings = *surroundings;
        HASH_ADD(hh, locator->questions, key, sizeof question->key, question);
        DL_PREPEND(locator->queue, question);
    }
    wait->question = question;
    DL_APPEND(question->waits, wait);
    ask_next(locator);
}

void locator_leave(struct locator *locator, struct locator_wait *wait) {
    struct question *question = wait->question;
    if (question == NULL)
        return;
    wait->question = NULL;
    DL_DELETE(question->waits, wait);
    if (question->waits == NULL && !question->under_way && !question->ending)
        drop_question(question);
}

void locator_note_without(struct locator *locator) {
    locator->counts.without++;
}

void locator_reload(struct locator *locator) {
    const struct config *config = locator->config;
    bool asks = config->geolocation.url != NULL;
    locator->breaker = (struct breaker){.failures = 0};
    places_bound(locator->places, asks ? (size_t)config->geolocation.cache : 0);
    if (!asks)
        give_up_queue(locator);
}

const struct locator_counts *locator_counts(const struct locator *locator) {
    return &locator->counts;
}

size_t locator_remembered(const struct locator *locator) {
    return places_count(locator->places);
}

bool locator_is_resolving(const struct locator *locator) {
    return requests_resolve(locator->requests);
}

struct locator *locator_new(uv_loop_t *loop, const struct config *config, struct store *store) {
    struct locator *locator = must_have(calloc(1, sizeof *locator));
    size_t most = config->geolocation.url != NULL ? (size_t)config->geolocation.cache : 0;
    locator->loop = loop;
    locator->config = config;
    locator->places = places_new(loop, store, most);
    locator->requests = requests_new(loop);
    return locator;
}

void locator_stop(struct locator *locator) {
    struct question *question, *next;
    requests_stop(locator->requests);
    HASH_ITER(hh, locator->questions, question, next) {
        drop_question(question);
    }
    places_stop(locator->places);
}

void locator_free(struct locator *locator) {
    requests_free(locator->requests);
    places_free(locator->places);
    free(locator);
}
