// Where commands are given in: checks them as far as that can be said at once, publishes them, and tells whether the
// broker has taken them. What becomes of them comes as log entries.
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "gateway/broker/mqtt.h"

struct desk;

enum desk_state { DESK_WAITS, DESK_TAKEN, DESK_REFUSED };

#define DESK_TIME      10000000 // microseconds for the broker to take what is published
#define DESK_MARK_SIZE 17

// taken() is called when there is news for those who ask. prefix and carrier stay the caller's.
struct desk *desk_new(const char *prefix, const struct mqtt_carrier *carrier);
void desk_free(struct desk *desk);

// Makes a mark, by which those who sent commands know the log entries of these.
void desk_mark(char mark[DESK_MARK_SIZE]);

// Checks a command, or an array of them, or the text of one; with a protocol (or NULL: not known), also its properties. Returns
// the array of commands, with meta.web set to mark and meta.user to user, for the caller to release; NULL, and *fault
// ({"reason":…,"faults":[{"path","problem"}]}, for the caller to release), when it is not valid.
json_t *desk_check(const char *body, size_t length, const char *protocol, const char *mark, const char *user,
                   json_t **fault);

// Checks what the broker's registry is to say of that ident. Returns it as JSON for the caller to release; NULL, and
// *fault as above.
json_t *desk_check_listing(const char *ident, const char *body, size_t length, json_t **fault);

// How many publishes there is room for: of those before, all that somebody may still ask about are remembered.
size_t desk_room(const struct desk *desk);

// Publishes at QoS 1 to {prefix}/{topic…}: JSON, or with NULL nothing, which is always retained: it empties the topic. Returns
// a number to ask with; 0 when that is not possible now, see desk_hindrance(). Numbers follow one another, but 0 is none.
unsigned desk_publish(struct desk *desk, const char *topic, const json_t *payload, enum mqtt_retain retain);
// Why nothing can be published now, where that is so: a constant.
const char *desk_hindrance(const struct desk *desk);

// What the broker has said of it; *reason is why it refused, good until something is published. A number is asked for until it
// does not wait any more, for twice DESK_TIME at most.
enum desk_state desk_state(struct desk *desk, unsigned number, const char **reason);
// The same of count numbers, from first on: what the first that is not taken says.
enum desk_state desk_states(struct desk *desk, unsigned first, unsigned count, const char **reason);

// What the link reports.
void desk_published(struct desk *desk, int mid, enum mqtt_answer answer, const char *reason);
void desk_lost(struct desk *desk);
