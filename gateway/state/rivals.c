// Other gateways that do what only this one should; see rivals.h.
#include "gateway/state/rivals.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "gateway/base/log.h"
#include "gateway/base/memory.h"

#define STATE_MAX   4096 // bytes of a state that is read
#define SAME_RUN    1e-3 // seconds that what comes back of our own start may differ by
#define TRACES_MAX  2    // connections in a row with a trace of a rival
#define INTAKES_MAX 1000 // that are remembered

// One that takes commands in as well.
struct intake {
    char *client_id;
    bool online; // as the broker says on this connection
    UT_hash_handle hh;
};

struct rivals {
    const struct bus *bus;
    bool takes_in;  // commands
    double started; // Unix seconds
    void (*same_id)(void *context);
    void *context;
    unsigned connections; // of this run, 2 at most
    unsigned traces;      // connections in a row that had one
    bool traced;          // this connection
    bool settled, told;   // the same
    struct intake *intakes;
};

struct rivals *rivals_new(const struct config *config, const struct bus *bus, int64_t started,
                          void (*same_id)(void *context), void *context) {
    struct rivals *rivals = must_have(calloc(1, sizeof *rivals));
    *rivals = (struct rivals){.bus = bus,
                              .takes_in = config->commands.intake,
                              .started = (double)started / 1e6,
                              .same_id = same_id,
                              .context = context};
    return rivals;
}

static void forget(struct rivals *rivals, struct intake *intake) {
    HASH_DEL(rivals->intakes, intake);
    free(intake->client_id);
    free(intake);
}

void rivals_free(struct rivals *rivals) {
    struct intake *intake, *next;
    HASH_ITER(hh, rivals->intakes, intake, next) {
        forget(rivals, intake);
    }
    free(rivals);
}

// --- our own client_id ---

static void tell(struct rivals *rivals) {
    if (rivals->told)
        return;
    rivals->told = true;
    rivals->same_id(rivals->context);
}

// Of another run on our topic. On the first connection it is an earlier run of ours, and once the roll call has
// settled it is a rival. In between it was written while we were away: by a rival, or it is an earlier run of ours
// again because the broker fell back to an older state of its disk. We then write over it, so a second time in a row
// it is a rival.
static void hear_other_run(struct rivals *rivals) {
    if (rivals->connections < 2 && !rivals->settled)
        return;
    if (!rivals->traced)
        rivals->traces++;
    rivals->traced = true;
    if (rivals->settled || rivals->traces >= TRACES_MAX)
        tell(rivals);
}

static void hear_own(struct rivals *rivals, const json_t *state) {
    const json_t *started = json_object_get(state, "started");
    if (json_is_number(started) && fabs(json_number_value(started) - rivals->started) > SAME_RUN)
        hear_other_run(rivals);
}

// --- those that take commands in ---

static void add_intake(struct rivals *rivals, const char *client_id) {
    struct intake *intake;
    if (HASH_COUNT(rivals->intakes) >= INTAKES_MAX)
        return;
    intake = must_have(calloc(1, sizeof *intake));
    *intake = (struct intake){.client_id = must_have(strdup(client_id)), .online = true};
    HASH_ADD_KEYPTR(hh, rivals->intakes, intake->client_id, strlen(client_id), intake);
    log_warning("the gateway '%s' takes commands in as well: commands may run twice; set commands.intake to "
                "false in all gateways but one",
                client_id);
}

static void hear_other(struct rivals *rivals, const char *client_id, bool takes_in) {
    struct intake *intake;
    HASH_FIND(hh, rivals->intakes, client_id, strlen(client_id), intake);
    if (intake == NULL && takes_in)
        add_intake(rivals, client_id);
    else if (intake != NULL && takes_in)
        intake->online = true;
    else if (intake != NULL)
        forget(rivals, intake);
}

// --- what the broker says ---

void rivals_connected(struct rivals *rivals) {
    struct intake *intake;
    if (!rivals->traced)
        rivals->traces = 0;
    if (rivals->connections < 2)
        rivals->connections++;
    rivals->traced = rivals->settled = rivals->told = false;
    for (intake = rivals->intakes; intake != NULL; intake = intake->hh.next)
        intake->online = false;
}

void rivals_settled(struct rivals *rivals) {
    struct intake *intake, *next;
    rivals->settled = true;
    HASH_ITER(hh, rivals->intakes, intake, next) {
        if (!intake->online) // gone while we were away
            forget(rivals, intake);
    }
}

void rivals_received(struct rivals *rivals, const char *topic, const struct mqtt_received *received) {
    if (strchr(topic, '/') != NULL || received->length > STATE_MAX)
        return;
    json_t *state = json_loadb(received->payload, received->length, 0, NULL);
    const char *word = json_string_value(json_object_get(state, "state"));
    bool online = word != NULL && strcmp(word, "online") == 0;
    if (online && bus_is_own(rivals->bus, topic))
        hear_own(rivals, state);
    else if (rivals->takes_in && !bus_is_own(rivals->bus, topic))
        hear_other(rivals, topic, online && json_is_boolean(json_object_get(state, "commands")));
    json_decref(state);
}
