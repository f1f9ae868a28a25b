// What is faulty taken out of a configuration, so that the rest can be looked at as well: one fault hides no other.
#pragma once

#include <jansson.h>

// Removes from json what a fault of its schema was found at; path is that of the fault. In an entry of the lists
// "channels" and "devices" only the key at fault goes, and in place of a faulty URL stands a good one, so that the
// entries keep their places.
void prune(json_t *json, const char *path);
// The same for an array of such entries; path begins with the place: "[3].id".
void prune_entry(json_t *array, const char *path);
