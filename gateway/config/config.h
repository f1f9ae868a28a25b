// The configuration: file, environment and defaults, checked as a whole. The schema
// (schema/config.schema.json) has the types, ranges and defaults; the rules that a schema cannot express are
// in rules.h.
#pragma once

#include "gateway/config/faults.h"
#include "gateway/config/files.h"
#include "gateway/config/settings.h"

// Reads file (NULL: defaults only), which stays the caller's, and the environment. NULL when there was any fault; each
// one is reported.
struct config *config_load(const char *file, config_fault_fn *fault, void *context);

// The same for text in memory.
struct config *config_parse(const char *text, size_t length, config_fault_fn *fault, void *context);

// config_load() for who is not the gateway: of the files that the configuration names only those that are needed, some of
// FILES_… of files.h, are read, so that the others need not be there nor be this user's.
struct config *config_load_with(const char *file, unsigned needed, config_fault_fn *fault, void *context);

// How full the battery of a codec's devices (NULL: no codec) is: as the first channel that says so, or the codec. NULL
// when nobody knows.
const struct codec_battery *config_battery(const struct config *config, const struct codec *codec);

// For one that opens none.
void config_drop_channels(struct config *config);

void config_free(struct config *config);

void config_devices_free(struct config_devices *devices);
