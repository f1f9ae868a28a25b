// What is heard of others: filters that somebody wants for as long as the gateway runs, whatever becomes of the
// connection. There may be one for each device, so they go to the broker in portions, of which one is under way.
//
// A session that the broker has kept still has the filters of the connection before: those that nobody wants any more
// are taken out of it. What an earlier run has left in it we do not know; who may have left it says so.
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define HEARING_PORTION 16 // filters

struct hearing;

struct hearing_handlers {
    void *context;
    // Ask the broker for filters, or no longer; *mid says which answer is the one to that. False when it cannot be
    // asked, because the connection is broken.
    bool (*subscribe)(void *context, char *const *filters, size_t count, int *mid);
    bool (*unsubscribe)(void *context, char *const *filters, size_t count, int *mid);
    // The broker has refused a filter for that reason. Whether hearing_ask_again() will be called.
    bool (*refused)(void *context, const char *filter, int reason);
};

struct hearing *hearing_new(const struct hearing_handlers *handlers);
void hearing_free(struct hearing *hearing);

// From now on; or no longer. Also while there is no connection.
void hearing_want(struct hearing *hearing, const char *filter);
void hearing_drop(struct hearing *hearing, const char *filter);
// An earlier run may have wanted it, and this one does not: takes it out of a session that the broker has kept.
void hearing_drop_inherited(struct hearing *hearing, const char *filter);

// The connection is up. resumed: the broker has kept the session.
void hearing_begin(struct hearing *hearing, bool resumed);
void hearing_end(struct hearing *hearing);
// The broker has answered the request mid; granted has count answers, NULL when it was to unsubscribe.
void hearing_answer(struct hearing *hearing, int mid, size_t count, const int *granted);
// It is time to ask again for what was refused: for a portion of it, and for more as long as some is granted.
void hearing_ask_again(struct hearing *hearing);
