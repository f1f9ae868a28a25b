// The devices that somebody looks at: all their last values, as the broker retains them. Of the others only what the
// fleet knows is kept, so that a hundred thousand devices do not take a hundred thousand times their values.
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "gateway/web/text_out.h"

#define DOSSIERS_MAX 200

struct dossiers;

// Called when the broker is to be asked for a topic below state/gw/devices/, or no longer.
struct dossier_handlers {
    void *context;
    void (*ask)(void *context, const char *topic);
    void (*leave)(void *context, const char *topic);
};

struct dossiers *dossiers_new(const struct dossier_handlers *handlers);
void dossiers_free(struct dossiers *dossiers);

// Somebody looks at the device of that id. Whether what the broker retains of it has come, or has not come within
// a second; now is clock_ticks().
bool dossier_open(struct dossiers *dossiers, int64_t id, int64_t now);
// Whether values of it have come, or the word that it has none. Nobody looks at it by that, so this is for when the broker is away.
bool dossier_is_known(const struct dossiers *dossiers, int64_t id);
// Closes those that nobody has looked at for a minute.
void dossiers_tidy(struct dossiers *dossiers, int64_t now);
// The connection is there (again): all of them are asked for.
void dossiers_connected(struct dossiers *dossiers);

// What came below state/gw/devices/{id}: rest is what follows the id. True when it is a value of a device that
// somebody looks at, and has changed; payload is JSON, or has length 0. timestamp: Unix seconds of the value,
// or 0 when that is not known.
bool dossier_take(struct dossiers *dossiers, int64_t id, const char *rest, const char *payload, size_t length,
                  double timestamp);
// What a message of that device says, as a JSON object; timestamp: Unix seconds when it was measured. What is newer stays.
void dossier_message(struct dossiers *dossiers, int64_t id, const json_t *message, double timestamp);
// Whether somebody looks at it.
bool dossier_has(const struct dossiers *dossiers, int64_t id);
// Calls fn with each value, in alphabetical order of the names: JSON as text, and Unix seconds, or 0 when not known.
void dossier_each(const struct dossiers *dossiers, int64_t id,
                  void (*fn)(void *context, const char *name, const char *text, double timestamp),
                  void *context);
// Writes the values as members of a JSON object, in alphabetical order: "speed":{"value":…,"timestamp":…}.
void dossier_write(const struct dossiers *dossiers, int64_t id, struct text_out *out);
