// What the environment says beside the file: TRACKBUS_MQTT__CLIENT_ID is mqtt.client_id, and so for every key.
#pragma once

#include <jansson.h>

#include "gateway/config/faults.h"

// Puts into json, a configuration, what variables of the environment say; the schema's keys make their names. A
// variable that is empty counts as not set. A fault: one that names no key, or two for the same key.
void environment_apply(struct faults *faults, json_t *json, const json_t *schema);

// Calls note for each key that a variable sets: path is the key's, such as "$.mqtt.url".
void environment_notes(config_fault_fn *note, void *context);

// Calls note for each variable that looks like ours and names no key. Those with two underscores are faults of
// environment_apply().
void environment_strangers(config_fault_fn *note, void *context);
