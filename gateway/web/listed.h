// What the broker's registry says of devices, as it stands retained under registry/gw/devices/.
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define LISTED_MAX         200000 // devices; of more nothing is known
#define LISTED_PAYLOAD_MAX 1024   // bytes; of what is longer only that it stands there

struct listed;

struct listed *listed_new(void);
void listed_free(struct listed *listed);

// payload is what was published for that ident; with length 0 it is gone.
void listed_set(struct listed *listed, const char *ident, const char *payload, size_t length);
void listed_forget_all(struct listed *listed); // the connection was lost: they come again

// Whether anything stands there.
bool listed_has(const struct listed *listed, const char *ident);
// The JSON object that stands there, as text, good until the next change; NULL: nothing, or something else.
const char *listed_get(const struct listed *listed, const char *ident);
