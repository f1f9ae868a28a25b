// Where a report without coordinates was made: what a geolocation service says about what the device sees around it.
// A service is asked once for the same surroundings, also when many reports have them at the same time, and what it says is
// remembered. One that fails is left alone for a while. Off unless geolocation.url is set.
//
// When more is to be asked than the service answers, the newest question goes first: so some get their answer in time,
// where otherwise all would get it too late.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "gateway/config/settings.h"
#include "gateway/geolocation/location.h"
#include "gateway/geolocation/surroundings.h"
#include "schema/message.h"

struct locator;
struct question;
struct store;

// Waits for an answer. The memory is the caller's, until done or locator_leave().
struct locator_wait {
    void (*done)(struct locator_wait *wait, const struct location *place); // NULL: without one
    struct question *question; // the locator's own, and so are these
    struct locator_wait *prev, *next;
};

enum locator_verdict {
    LOCATOR_NO_NEED, // the report has coordinates, or nothing to go by; or nobody is asked
    LOCATOR_KNOWN,   // place is filled
    LOCATOR_NOWHERE, // the service does not know it, or not well enough
    LOCATOR_PAUSED,  // the service fails
    LOCATOR_ASKS,    // it can be asked
};

// Reports by what became of them, and requests to the service. Each only grows.
struct locator_counts {
    uint64_t cached, found, not_found; // cached: found in what is remembered; not_found: or too inaccurate
    uint64_t without;                  // the service was slow or failing, or too many waited
    uint64_t requests, failures;
};

// config stays the caller's; it is looked at all the time. Before anything is written to the store.
struct locator *locator_new(uv_loop_t *loop, const struct config *config, struct store *store);
// Closes the handles on the loop. Nobody may wait any more.
void locator_stop(struct locator *locator);
void locator_free(struct locator *locator);

// The configuration has changed. All that is asked goes without an answer when there is no service any more.
void locator_reload(struct locator *locator);

// What is known without asking. Fills surroundings for locator_ask().
enum locator_verdict locator_look(struct locator *locator, const struct message *message,
                                  struct surroundings *surroundings, struct location *place);
// Asks: wait->done is called later, not from here.
void locator_ask(struct locator *locator, const struct surroundings *surroundings, struct locator_wait *wait);
// wait is not to be told any more. What the service says is remembered all the same, once it is asked.
void locator_leave(struct locator *locator, struct locator_wait *wait);
// A report goes out without an answer, because it waited too long or too many wait.
void locator_note_without(struct locator *locator);

// Puts the place into a message.
void locator_set(struct message *message, const struct location *place);

const struct locator_counts *locator_counts(const struct locator *locator);
size_t locator_remembered(const struct locator *locator);

// Whether a thread looks for the service's name, which nothing can call back.
bool locator_is_resolving(const struct locator *locator);
